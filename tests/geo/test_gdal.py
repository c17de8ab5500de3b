"""GDAL within bounds, and scenes on a real S3 server."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import rasterio
from rasterio.env import getenv

from rayseg.errors import ConfigError, SourceError, UnsupportedImage
from rayseg.geo import gdal
from rayseg.geo.bands import Bands
from rayseg.geo.raster import open_scene, read_values
from rayseg.geometry import Window
from tests.pipeline.s3_server import no_other_credentials, serve_s3

from .rasters import noise, write

RGB = Bands((1, 2, 3))


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    root = tmp_path_factory.mktemp("s3")
    (root / "bucket" / "in ner").mkdir(parents=True)
    write(root / "bucket" / "in ner" / "x.tif", noise((3, 60, 70)), mask=np.eye(60, 70, dtype=bool))
    write(root / "bucket" / "y.tif", noise((3, 8, 8)))
    (root / "bucket" / "words.tif").write_text("words")
    with no_other_credentials(), serve_s3(root) as server:
        yield server


def test_a_scene_on_s3_is_read_with_its_mask_beside_it_by_the_options_given(s3):
    uri = "s3://bucket/in ner/x.tif"
    scene = open_scene(uri, storage=s3.options)
    assert scene.explicit_mask and scene.version == "" and "secret" not in repr(scene)
    found = read_values(scene, Window(5, 6, 40, 50), RGB, storage=s3.options)
    local = open_scene(str(s3.root / "bucket/in ner/x.tif"))
    for a, b in zip(found, read_values(local, Window(5, 6, 40, 50), RGB), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(SourceError, match="nothing.tif: cannot be read"):
        open_scene("s3://bucket/nothing.tif", storage=s3.options)
    with pytest.raises(UnsupportedImage, match="not a raster"):
        open_scene("s3://bucket/words.tif", storage=s3.options)


def test_credentials_of_the_environment_serve_as_well(s3):
    program = "import sys; from rayseg.geo.raster import open_scene; print(open_scene(sys.argv[1]).size.width)"
    command = [sys.executable, "-c", program, "s3://bucket/in ner/x.tif"]
    found = subprocess.run(command, env=os.environ | s3.environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "70"


def test_a_wrong_secret_is_told_as_no_right_to_read(s3):
    with pytest.raises(SourceError, match=r"s3://bucket/y.tif: cannot be read: .*Check the path, the credentials"):
        open_scene("s3://bucket/y.tif", storage=s3.options | {"secret": "wrong-secret-000"})


@pytest.mark.parametrize(
    "storage, settings",
    [
        (None, {}),
        ({"key": "k", "secret": "s", "token": None}, {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}),
        ({"anon": True}, {"AWS_NO_SIGN_REQUEST": "YES"}),
        ({"anon": False, "region_name": "eu-1"}, {"AWS_REGION": "eu-1"}),
        (
            {"endpoint_url": "https://minio.example.org:9000/"},
            {"AWS_S3_ENDPOINT": "minio.example.org:9000", "AWS_HTTPS": "YES", "AWS_VIRTUAL_HOSTING": "FALSE"},
        ),
    ],
)
def test_options_of_fsspec_become_settings_of_gdal(monkeypatch, storage, settings):
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    assert gdal.s3_settings(storage) == settings


@pytest.mark.parametrize(
    "storage, message",
    [({"profile": "x"}, "'profile' means nothing to GDAL"), ({"endpoint_url": "minio:9000"}, "is no URL; write it like")],
)
def test_an_option_that_gdal_cannot_honour_is_refused(storage, message):
    with pytest.raises(ConfigError, match=message):
        gdal.s3_settings(storage)


def test_threads_and_caches_are_bounded_inside_and_left_alone_outside(tmp_path):
    path = write(tmp_path / "x.tif", noise((3, 8, 8)))
    before = rasterio.env.get_gdal_config("GDAL_CACHEMAX")
    with gdal.dataset(path):
        assert rasterio.env.get_gdal_config("GDAL_CACHEMAX") == gdal.CACHE_BYTES
        assert str(getenv()["GDAL_NUM_THREADS"]) == "1" and rasterio.env.get_gdal_config("GDAL_VRT_ENABLE_PYTHON") == "NO"
    assert rasterio.env.get_gdal_config("GDAL_CACHEMAX") == before


def test_no_more_than_a_few_files_stay_open(tmp_path):
    gdal.close_all()
    held = []
    for i in range(gdal.MAX_OPEN + 3):
        with gdal.dataset(write(tmp_path / f"{i}.tif", noise((3, 8, 8)))) as file:
            held.append(file)
    assert [file.closed for file in held] == [True] * 3 + [False] * gdal.MAX_OPEN
    with gdal.dataset(str(tmp_path / "5.tif")) as again:
        assert again is held[5]
    gdal.close_all()
    assert all(file.closed for file in held)


def test_a_file_that_changed_is_opened_anew(tmp_path):
    path = tmp_path / "x.tif"
    with gdal.dataset(write(path, noise((3, 8, 8)))) as first:
        pass
    path.unlink()
    write(path, noise((3, 8, 9)))
    with gdal.dataset(str(path)) as second:
        assert second is not first and second.width == 9


@pytest.mark.parametrize("package", ["rasterio", "shapely", "pyproj"])
def test_without_a_package_the_extra_is_named(package):
    program = f"import sys; sys.modules[{package!r}] = None\nimport rayseg.cli\nfrom rayseg.errors import ConfigError\n"
    program += "try:\n    import rayseg.geo\nexcept ConfigError as error:\n    print(error)"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert f"the package {package}, which is not installed: pip install 'rayseg[geo]'" in found.stdout
