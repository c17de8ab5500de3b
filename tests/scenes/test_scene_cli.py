"""Scenes on the command line: what is refused before anything is done, with the reason and the remedy."""

from __future__ import annotations

import subprocess
import sys

import pytest

from rayseg.cli import REFUSED, main
from tests.faults.drivers import ROOT, environment

from . import worlds

INSTANCE, SEMANTIC = worlds.ORACLE, "fake:semantic"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    worlds.write(folder / "a.tif", worlds.cells(30, 40, n=5))
    return folder


@pytest.mark.parametrize(
    ("model", "flags", "said"),
    [
        (INSTANCE, ["--regions", "all"], "regions is about label maps; fake-instance finds instances"),
        (INSTANCE, ["--seams", "centre"], "seams is about label maps"),
        (SEMANTIC, ["--coarse", "3"], "coarse is about objects; fake-semantic gives label maps"),
        (SEMANTIC, ["--seams", "blend"], "gives labels only. Export the model with `rayseg export --flavour probabilities`"),
        (SEMANTIC, ["--regions", "blue,purple"], "regions 'purple': no such class; the model has red, green, blue"),
        (SEMANTIC, ["--scenes", "--save-label-maps"], "a scene of a semantic model always gets one. Leave it out"),
        (INSTANCE, ["--tile-px", "64", "--overlap-px", "64"], "neighbours must share less than a tile"),
        (INSTANCE, ["--overlap-px", "1024"], "overlap_px 1024 with tiles of 1024 px"),
        (INSTANCE, ["--tile-px", "64", "--object-px", "70"], "object_px 70 with tiles of 64 px"),
        (INSTANCE, ["--overlap-px", "0"], "tiles that share no pixel cannot be put together"),
        (INSTANCE, ["--tile-px", "0"], "tile_px must be at least 1, got 0"),
        (INSTANCE, ["--tile-px", "1"], "tile_px 1: tiles of one pixel share none with their neighbours"),
        (INSTANCE, ["--coarse", "1"], "coarse must be at least 2"),
        (INSTANCE, ["--simplify-px", "-1"], "simplify_px must be 0 or a positive number"),
        (INSTANCE, ["--simplify-px", "nan"], "simplify_px must be 0 or a positive number"),
        (INSTANCE, ["--seams", "sewn"], "seams 'sewn' is unknown; use auto, blend, centre"),
        (INSTANCE, ["--aoi", "/nowhere/aoi.geojson"], "--aoi /nowhere/aoi.geojson: there is no such file"),
        (INSTANCE, ["--scale", "9,1"], "the first number must be below the second"),
        (INSTANCE, ["--scale", "bright"], "write two numbers (0,10000), two percentiles (p2,p98) or dtype"),
        (INSTANCE, ["--bands", "4,3,2"], "the raster cannot be read as asked"),
        (INSTANCE, ["--scenes", "--max-pixels", "9"], "max_pixels is about images that are decoded whole"),
        (INSTANCE, ["--scenes", "--allow-truncated"], "allow_truncated is about images that are decoded whole"),
    ],
)
def test_what_cannot_be_done_is_refused_at_once(ray_local, source, tmp_path, capsys, model, flags, said):
    out = tmp_path / "out"
    status = main(["segment", str(source), str(out), "-m", model, *flags, "--predictors", "1", "--no-report", "-q"])
    words = capsys.readouterr().err
    assert status == REFUSED, words
    assert said in words and words.startswith("rayseg: ConfigError: ")
    assert len(words.splitlines()) == 1
    assert not (out / "job.json").exists()


def test_scenes_without_the_extra_geo_are_refused_with_the_remedy(source, tmp_path):
    program = (
        "import importlib.util, sys\n"
        "real = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *a: None if name in ('rasterio', 'shapely', 'pyproj') else real(name, *a)\n"
        "from rayseg.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    command = [sys.executable, "-c", program, "segment", str(source), str(tmp_path / "out"), "-m", INSTANCE]
    common = ["--predictors", "1", "--num-cpus", "2", "--no-report", "-q"]
    done = subprocess.run(
        [*command, "--scenes", *common], capture_output=True, text=True, env=environment(), cwd=ROOT, check=False
    )
    assert done.returncode == REFUSED
    assert "is not installed: pip install 'rayseg[geo]'" in done.stderr
    assert "Traceback" not in done.stderr
