"""Label maps as COGs: the pixels, where they lie, what a GIS shows of them, and what is left when writing fails."""

from __future__ import annotations

import itertools
import json
import struct
import subprocess
import sys
import textwrap

import numpy as np
import pyproj
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st

from rayseg.draw import PALETTE
from rayseg.errors import ConfigError, OutputError
from rayseg.geo import cog
from rayseg.geo.cog import write_label_cog
from rayseg.geo.ground import IDENTITY, Ground
from rayseg.geo.raster import open_scene
from rayseg.geometry import Size, Window
from rayseg.tiling.labels import Band

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

UTM = Ground(pyproj.CRS("EPSG:32633").to_wkt(), (0.5, 0.0, 399_960.0, 0.0, -0.5, 5_000_040.0))
NAMES = ["sky", "land", "sea"]


def bands_of(labels, cuts=()):
    edges = [0, *sorted(cuts), len(labels)]
    return [Band(Window(0, a, labels.shape[1], b), labels[a:b]) for a, b in itertools.pairwise(edges)]


def write(path, labels, *, cuts=(), ground=UTM, void=255, names=NAMES, **options):
    size = Size(*labels.shape)
    write_label_cog(
        path, bands_of(labels, cuts), size=size, ground=ground, void=void, labels=names, scratch=path.parent / "s", **options
    )
    assert list((path.parent / "s").iterdir()) == []


def some_labels(height, width, *, void=255, dtype=np.uint8, seed=0):
    rng = np.random.default_rng(seed)
    blobs = rng.integers(0, 3, (-(-height // 16), -(-width // 16))).repeat(16, axis=0).repeat(16, axis=1)[:height, :width]
    return np.where(rng.random((height, width)) < 0.1, void, blobs).astype(dtype)


@settings(max_examples=15)
@given(st.integers(1, 150), st.integers(1, 150), st.lists(st.integers(0, 150), max_size=6), st.sampled_from([255, 9, 300, 65535]))
def test_bands_of_any_heights_give_the_map(tmp_path_factory, height, width, cuts, void):
    labels = some_labels(height, width, void=void, dtype=np.uint8 if void < 256 else np.uint16)
    path = tmp_path_factory.mktemp("cog") / "map.tif"
    write(path, labels, cuts=[min(cut, height) for cut in cuts], void=void, block_px=32)
    with rasterio.open(path) as file:
        assert file.dtypes == (labels.dtype.name,) and file.nodata == void
        assert (file.read(1) == labels).all()
        assert ((file.read_masks(1) == 0) == (labels == void)).all()


def directories(path):
    """(offset of the directory, width, least offset of its blocks) of each image of a TIFF, in the order of their chain."""
    data = path.read_bytes()
    order = {b"II": "<", b"MM": ">"}[data[:2]]
    assert struct.unpack_from(order + "H", data, 2) == (42,), "these small files are no BigTIFF"
    (at,) = struct.unpack_from(order + "I", data, 4)
    found = []
    while at:
        (n,) = struct.unpack_from(order + "H", data, at)
        fields = [struct.unpack_from(order + "HHI4s", data, at + 2 + 12 * i) for i in range(n)]
        values = {}
        for tag, kind, count, raw in fields:
            code, size = {3: ("H", 2), 4: ("I", 4)}.get(kind, ("s", 1))
            if tag in (256, 322, 324):
                where = raw if size * count <= 4 else data[struct.unpack(order + "I", raw)[0] :][: size * count]
                values[tag] = struct.unpack(order + code * count, where[: size * count])
        assert 322 in values, "not in tiles"
        found.append((at, values[256][0], min(values[324])))
        (at,) = struct.unpack_from(order + "I", data, at + 2 + 12 * n)
    return found


def test_the_file_is_a_cloud_optimized_geotiff(tmp_path):
    path = tmp_path / "map.tif"
    write(path, some_labels(700, 300), block_px=128)
    with rasterio.open(path) as file:
        assert file.tags(ns="IMAGE_STRUCTURE") | {"INTERLEAVE": ""} == {
            "LAYOUT": "COG",
            "COMPRESSION": "DEFLATE",
            "INTERLEAVE": "",
        }
        assert file.block_shapes == [(128, 128)] and file.overviews(1) == [2, 4, 8]
    found = directories(path)
    assert [width for _, width, _ in found] == [300, 150, 75, 38]
    offsets, first_blocks = [at for at, _, _ in found], [at for _, _, at in found]
    assert offsets == sorted(offsets) and first_blocks == sorted(first_blocks, reverse=True)
    assert offsets[-1] < first_blocks[-1], "all directories come before all pixels, and overviews before the map"


def test_a_map_that_fits_a_block_has_no_overviews(tmp_path):
    write(tmp_path / "map.tif", some_labels(100, 128), block_px=128)
    with rasterio.open(tmp_path / "map.tif") as file:
        assert file.overviews(1) == [] and file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"


def test_an_overview_shows_what_most_pixels_are_and_void_where_none_is_anything(tmp_path):
    cell = np.asarray([[1, 1], [2, 255]], dtype=np.uint8)
    labels = np.full((64, 64), 255, dtype=np.uint8)
    labels[:32] = np.tile(cell, (16, 32))
    write(tmp_path / "map.tif", labels, block_px=32)
    with rasterio.open(tmp_path / "map.tif", overview_level=0) as file:
        seen = file.read(1)
    assert (seen[:16] == 1).all() and (seen[16:] == 255).all()


GCPS = tuple((float(x), float(y), 10 + x * 1e-3 + y * 1e-5, 50 - y * 1e-3) for x in (0, 30, 60) for y in (0, 20, 40))


@pytest.mark.parametrize(
    "ground",
    [
        UTM,
        Ground(UTM.crs_wkt, (0.4, 0.3, 399_960.0, 0.3, -0.4, 5_000_040.0)),
        Ground(UTM.crs_wkt, (0.5, 0.0, 7.0, 0.0, 0.5, 9.0)),
        Ground(None, (2.0, 0.0, 5.0, 0.0, -2.0, 7.0)),
        Ground(pyproj.CRS("EPSG:4326").to_wkt(), IDENTITY, GCPS),
        Ground(None, IDENTITY, GCPS),
        Ground(),
        Ground(pyproj.CRS("EPSG:4326").to_wkt()),
    ],
    ids=["north up", "rotated", "south up", "no CRS", "GCPs", "GCPs without CRS", "pixels", "CRS alone"],
)
def test_the_map_lies_where_its_scene_lies(tmp_path, ground):
    write(tmp_path / "map.tif", some_labels(40, 60), ground=ground)
    found = open_scene(str(tmp_path / "map.tif")).ground
    assert found.affine == pytest.approx(ground.affine, abs=1e-12) and len(found.gcps) == len(ground.gcps)
    np.testing.assert_allclose(found.gcps, ground.gcps, atol=1e-9)
    assert (found.crs_wkt is None) == (ground.crs_wkt is None)
    assert found.crs_wkt is None or pyproj.CRS(found.crs_wkt) == pyproj.CRS(ground.crs_wkt)
    assert not (tmp_path / "map.tif.aux.xml").exists()


def test_a_reference_system_that_geotiff_cannot_say_comes_beside_it(tmp_path):
    pole = pyproj.CRS("+proj=ob_tran +o_proj=longlat +o_lon_p=0 +o_lat_p=39.25 +lon_0=18 +R=6371229")
    path = tmp_path / "map.tif"
    write(path, some_labels(20, 20), ground=Ground(pole.to_wkt(), (0.1, 0.0, 1.0, 0.0, -0.1, 2.0)))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["map.tif", "map.tif.aux.xml", "s"]
    with rasterio.open(path) as file:
        assert pyproj.CRS(file.crs.to_wkt()) == pyproj.CRS(rasterio.crs.CRS.from_wkt(pole.to_wkt()).to_wkt())
    write(path, some_labels(20, 20))
    assert not (tmp_path / "map.tif.aux.xml").exists(), "what stood beside the old map says nothing about the new one"


@pytest.mark.parametrize("void", [255, 65535])
def test_classes_have_names_and_colours_and_void_is_transparent(tmp_path, void):
    names = ['a <"&> b', "été = 水", "two\nlines\x01"]
    write(
        tmp_path / "map.tif", some_labels(20, 20, void=void, dtype=np.uint8 if void == 255 else np.uint16), void=void, names=names
    )
    with rasterio.open(tmp_path / "map.tif") as file:
        assert file.tags(1) == {"CLASS_0": names[0], "CLASS_1": names[1], "CLASS_2": "two lines "}
        assert file.descriptions == ("class",) and file.colorinterp[0].name == "palette"
        table = file.colormap(1)
    assert [table[i] for i in range(3)] == [(*colour, 255) for colour in PALETTE[:3].tolist()]
    assert table[void][3] == 0


def test_colours_go_round(tmp_path):
    two = np.asarray([[1, 2, 3], [4, 5, 6]], dtype=np.uint8)
    write(tmp_path / "map.tif", some_labels(9, 9), colours=two)
    with rasterio.open(tmp_path / "map.tif") as file:
        assert [file.colormap(1)[i][:3] for i in range(3)] == [(1, 2, 3), (4, 5, 6), (1, 2, 3)]


FLAT = np.zeros((20, 30), dtype=np.uint8)


@pytest.mark.parametrize(
    "bands, message",
    [
        (bands_of(FLAT[:9]), r"bands end at row 9 of a scene of Size\(height=20, width=30\)"),
        (bands_of(FLAT, [8])[1:], "follows row 0 of a scene"),
        (bands_of(FLAT[:, 1:]), "bands are as wide and leave no gap"),
        ([*bands_of(FLAT), Band(Window(0, 20, 30, 21), FLAT[:1])], "follows row 20"),
        (bands_of(FLAT.astype(np.uint16)), "labels uint16 .*, expected uint8"),
        ([Band(Window(0, 0, 30, 20), FLAT[:5])], r"labels uint8 \(5, 30\)"),
        (bands_of(FLAT + 3), "label 3 between rows 0 and 20 is none of 3 classes and not void"),
        ([], "bands end at row 0"),
    ],
)
def test_bands_that_are_no_map_of_the_scene_are_refused_and_leave_nothing(tmp_path, bands, message):
    with pytest.raises(ValueError, match=message):
        write_label_cog(
            tmp_path / "map.tif", bands, size=Size(20, 30), ground=UTM, void=255, labels=NAMES, scratch=tmp_path / "s"
        )
    assert [p.name for p in tmp_path.iterdir()] == ["s"] and list((tmp_path / "s").iterdir()) == []


@pytest.mark.parametrize(
    "options, message",
    [
        ({"void": 2}, "3 classes leave no room for the void label 2"),
        ({"void": 70000}, "void label 70000"),
        ({"block_px": 100}, "block_px is 100; TIFF wants a multiple of 16"),
        ({"colours": np.zeros((3, 4), np.uint8)}, r"colours uint8 \(3, 4\)"),
        ({"names": []}, "0 classes"),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        write(tmp_path / "map.tif", FLAT, **options)


def test_what_goes_wrong_while_bands_are_made_passes_and_leaves_the_old_map(tmp_path):
    path = tmp_path / "map.tif"
    write(path, FLAT)
    before = path.read_bytes()

    def broken():
        yield bands_of(FLAT, [8])[0]
        raise OSError("a tile cannot be read")

    with pytest.raises(OSError, match="a tile cannot be read"):
        write_label_cog(path, broken(), size=Size(20, 30), ground=UTM, void=255, labels=NAMES, scratch=tmp_path / "s")
    assert path.read_bytes() == before and sorted(p.name for p in tmp_path.iterdir()) == ["map.tif", "s"]
    with pytest.raises(ConfigError, match="written locally only"):
        write_label_cog("s3://b/map.tif", [], size=Size(1, 1), ground=UTM, void=255, labels=NAMES, scratch=tmp_path / "s")


def skips_all_blocks(monkeypatch):
    monkeypatch.setitem(cog._FIRST, "SPARSE_OK", True)
    monkeypatch.setattr(cog, "_write_row", lambda file, y, rows, block_px: 0)


def changes_a_pixel(monkeypatch):
    real = cog._add_overviews

    def add_overviews(path, size, block_px):
        real(path, size, block_px)
        with rasterio.open(path, "r+") as file:
            file.write(np.ones((1, 1), np.uint8), 1, window=((19, 20), (29, 30)))

    monkeypatch.setattr(cog, "_add_overviews", add_overviews)


@pytest.mark.parametrize(
    "damage, message", [(skips_all_blocks, "cannot be written"), (changes_a_pixel, "read back, .* is not what")]
)
def test_a_map_that_is_not_what_was_handed_over_does_not_appear(tmp_path, monkeypatch, damage, message):
    damage(monkeypatch)
    with pytest.raises(OutputError, match=f"map.tif: .*{message}"):
        write(tmp_path / "map.tif", FLAT, block_px=16)
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


FULL_DISK = """
    import json, resource, sys, warnings
    from pathlib import Path
    import numpy as np
    import rasterio
    from rayseg.errors import OutputError
    from rayseg.geo.cog import write_label_cog
    from rayseg.geo.ground import Ground
    from rayseg.geometry import Size, Window
    from rayseg.tiling.labels import Band

    warnings.simplefilter("error")
    folder, limits = Path(sys.argv[1]), json.loads(sys.argv[2])
    labels = np.random.default_rng(0).integers(0, 3, (600, 600)).astype(np.uint8)
    def write(name):
        band = Band(Window(0, 0, 600, 600), labels)
        options = dict(size=Size(600, 600), ground=Ground(), void=255, labels=["a", "b", "c"], block_px=128)
        write_label_cog(folder / name, [band], scratch=folder / "s", **options)
    said = []
    for limit in limits:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            write("map.tif")
            with warnings.catch_warnings(action="ignore"), rasterio.open(folder / "map.tif") as file:
                assert (file.read(1) == labels).all() and file.read(1, out_shape=(150, 150)).max() < 3
            said.append("written")
        except OutputError as error:
            said.append(str(error))
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        if said[-1] != "written":
            assert sorted(p.name for p in folder.iterdir()) == ["s"] and not list((folder / "s").iterdir())
            write("other.tif")  # no error is left behind in GDAL
            (folder / "other.tif").unlink()
    print(json.dumps(said))
"""


def test_a_full_disk_at_any_point_leaves_no_map_and_a_reason(tmp_path):
    limits = [*range(0, 140_000, 2_500), 10_000_000]
    command = [sys.executable, "-c", textwrap.dedent(FULL_DISK), str(tmp_path), json.dumps(limits)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    said = json.loads(ended.stdout)
    assert said[-1] == "written" and len(said) == len(limits)
    failed = said[: said.index("written")]
    assert len(failed) > 30 and set(said[len(failed) :]) == {"written"}
    assert all("map.tif: " in one and "The disk is probably full" in one for one in failed)
