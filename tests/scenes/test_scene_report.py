"""The report of a job of scenes says what its ledgers say, shows scenes small, and is one safe file."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
from rasterio.control import GroundControlPoint

from rayseg.cli import main
from rayseg.draw import PALETTE
from rayseg.errors import ImageTooLarge
from rayseg.geo.aoi import Aoi
from rayseg.geo.bands import choose_bands
from rayseg.geo.gdal import close_all
from rayseg.geo.raster import open_scene
from rayseg.geo.scaling import Scaling
from rayseg.geo.small import read_small, read_small_labels
from rayseg.geometry import Size
from rayseg.pipeline.read_tables import committed
from rayseg.pipeline.report import query, write_report
from rayseg.pipeline.report.scene_pictures import shown
from rayseg.pipeline.report.scene_tally import tally_scenes
from rayseg.pipeline.scenes import overview as overviews
from rayseg.pipeline.scenes.records import all_records
from rayseg.pipeline.storage import Store
from rayseg.tiling.stitch import SeamStats
from tests.geo.rasters import UTM, write
from tests.pipeline.s3_server import no_other_credentials, serve_s3
from tests.pipeline.test_report import NASTY, Page
from tests.scenes.handmade import Found, scene_job

EIGHT_BITS = Scaling((0.0,) * 3, (255.0,) * 3)
PLACED = {"crs": "EPSG:32633", "transform": UTM}


def grey(path: Path, height: int, width: int, value: int = 100, **profile) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    return write(path, np.full((3, height, width), value, np.uint8), **{**PLACED, **profile})


def damage(path: str, column: int, row: int) -> None:
    """Overwrite one compressed block of a file in tiles."""
    with rasterio.open(path) as file:
        names = [f"BLOCK_{what}_{column}_{row}" for what in ("OFFSET", "SIZE")]
        start, size = (int(file.get_tag_item(name, "TIFF", bidx=1)) for name in names)
    data = bytearray(Path(path).read_bytes())
    data[start : start + size] = b"\xff" * size
    Path(path).write_bytes(data)


def report(out: Path, **options) -> Page:
    close_all()
    return Page(Path(write_report(Store(str(out)), **options)).read_text(encoding="utf-8"))


def drawn(out: Path, *, labels=("house", "tree"), **options) -> overviews.Overview:
    """The overview of a job's only scene."""
    store = Store(str(out))
    (record,) = all_records(store)
    (chunk,) = (chunk for chunks in committed(store).values() for chunk in chunks)
    values = tally_scenes(store)
    (row,) = [*values.largest, *values.holed]
    done = overviews.Committed(f"objects/{chunk}.parquet", row.values["label_map"], row.values["holes"])
    return overviews.overview(store, record, done, labels=labels, scaling=EIGHT_BITS, storage={}, **options)


def test_a_whole_job_is_called_complete_and_shows_its_scenes(tmp_path):
    scenes = {grey(tmp_path / "a.tif", 100, 150): Found([(5, 5, 30, 30)]), grey(tmp_path / "b.tif", 100, 150): Found()}
    page = report(scene_job(tmp_path / "out", scenes))
    assert "Complete. 2 scenes, all whole; of their 12 tiles none failed." in page.text
    assert [picture.shape for picture in page.pictures()] == [(400, 600, 3)] * 2
    assert "1 object in 6 tiles, 0 over seams" in page.text and "150 × 100 px · EPSG:32633" in page.text
    assert "64 px a side; neighbours share 16 px" in page.text and "0 to 255 (range of the type: 0 to 255)" in page.text
    assert "reading 2 scenes" in page.text and "MB of decoding on its own" in page.text
    assert "3tiles a second" in page.text  # 12 tiles in the 4 s of the run's note


def test_tiles_and_scenes_are_counted_by_what_became_of_them(tmp_path):
    (tmp_path / "bad.tif").write_bytes(b"no raster")
    stats = SeamStats(fragments=31, joined=7, dropped=3)
    scenes = {
        grey(tmp_path / "holed.tif", 160, 160): Found([(5, 5, 9, 9)], failed=[0, 1], empty=[4], stats=stats),
        grey(tmp_path / "whole.tif", 64, 112): Found([(0, 0, 3, 3)] * 4, empty=[1], stats=SeamStats(5, 0, 2, 1)),
        str(tmp_path / "bad.tif"): Found(),
    }
    out = scene_job(tmp_path / "out", scenes)
    sums = tally_scenes(Store(str(out)))
    assert (sums.sums.ok, sums.incomplete, sums.sums.failed, sums.sums.objects) == (2, 1, 1, 5)
    wanted = {"tiles": 11, "empty_tiles": 2, "failed_tiles": 2, "unasked_tiles": 0, "fragments": 36, "joined": 9, "dropped": 4}
    assert dict(sums.counts) == wanted
    assert sums.sums.classes.objects.tolist() == [3, 2] and sums.sums.classes.images.tolist() == [2, 1]
    page = report(out)
    assert "Every planned tile and scene is accounted for; 1 scene incomplete, 1 scene failed, 2 tiles failed (18%)" in page.text
    assert "11 tiles:7 predicted2 without data2 failed" in page.text and "3 scenes:1 whole1 incomplete1 failed" in page.text
    assert "…: a block cannot be read: …" in page.text and "not recognized" in page.text
    assert "holed.tifincomplete25,600912031173250 ms" in page.text.replace("\n", "")
    assert "Incomplete: 2 of 9 tiles failed" in page.text and len(page.images) == 2


def test_a_running_job_says_what_is_left_and_shows_what_is_at_work(tmp_path):
    scenes = {
        grey(tmp_path / "done.tif", 64, 64): Found(),
        grey(tmp_path / "work.tif", 160, 160): Found(left=[3, 4, 5], committed=False),
    }
    out = scene_job(tmp_path / "out", scenes, run=False)
    page = report(out)
    assert "Not finished. 3 tiles left (30%), 1 scene to put together; the same command again goes on from here." in page.text
    assert "Not put together yet: tiles are at work." in page.text and len(page.images) == 2
    assert "No run has ended in good order yet, so the tiles a second are not known." in page.text
    for path in (out / "tiles/images").iterdir():  # killed before anything was done
        path.unlink()
    for path in (out / "images").iterdir():
        path.unlink()
    page = report(out)
    assert "Not finished. 10 tiles left (100%), 2 scenes to put together" in page.text and len(page.images) == 2


def test_segment_writes_the_report_of_scenes_at_its_end(tmp_path, ray_absent):
    noise = np.random.default_rng(0).integers(0, 255, (3, 192, 320), dtype=np.uint8)
    (tmp_path / "in").mkdir()
    path = write(tmp_path / "in/a.tif", noise, tiled=True, blockxsize=64, blockysize=64, compress="deflate", **PLACED)
    damage(path, 4, 2)
    flags = ["--tile-px", "64", "--overlap-px", "16", "--num-cpus", "2", "--predictors", "1", "-q"]
    code = main(["segment", str(tmp_path / "in"), str(tmp_path / "out"), "--model", "fake:instance", *flags])
    page = Page((tmp_path / "out/report.html").read_text(encoding="utf-8"))
    assert code == 0 and "1 scene incomplete" in page.text and "ZIPDecode" in page.text and len(page.images) == 1
    done = tally_scenes(Store(str(tmp_path / "out")))
    seams = f"{done.counts['joined']:,} of them over seams"
    assert done.counts["failed_tiles"] > 0 and done.counts["fragments"] > 0 and seams in page.text
    assert "tiles a second" in page.text and "predict run the network" in page.text


def test_objects_are_drawn_where_they_are_in_the_colour_of_their_class(tmp_path):
    boxes = [(40, 20, 140, 120), (200, 100, 300, 180), (10, 10, 11, 11)]
    scene = grey(tmp_path / "a.tif", 200, 450, transform=UTM @ rasterio.Affine.rotation(30))
    found = drawn(scene_job(tmp_path / "out", {scene: Found(boxes)}))
    assert found.rgb.shape == (400, 900, 3) and (found.drawn, found.objects, found.holes) == (3, 3, False)
    for (x0, y0, x1, y1), colour in zip(boxes[:2], PALETTE[[0, 1]].astype(int), strict=True):
        inner = found.rgb[2 * y0 + 6 : 2 * y1 - 6, 2 * x0 + 6 : 2 * x1 - 6].reshape(-1, 3)
        assert (np.median(inner, axis=0) == np.rint(100 * 0.65 + colour * 0.35)).all()
        edge = found.rgb[2 * y0 - 1 : 2 * y0 + 1, x0 + x1]
        assert (np.abs(edge.astype(int) - colour).sum(axis=1) < 30).any()
    assert (found.rgb[260:380, 20:60].reshape(-1, 3) == 100).all(axis=1).mean() > 0.9


def bent(size: int) -> tuple[list[GroundControlPoint], str]:
    """Control points of a map that is no affine one."""
    at = np.linspace(0, size, 5)
    points = [(x, y, 5e5 + x + 1e-3 * y**2, 5e6 - y + 1e-3 * x * y) for x in at for y in at]
    return [GroundControlPoint(row=y, col=x, x=east, y=north) for x, y, east, north in points], "EPSG:32633"


@pytest.mark.parametrize(
    "profile", [{"transform": UTM}, {"crs": None}, {"crs": None, "transform": rasterio.Affine.identity(), "gcps": bent(160)}]
)
def test_holes_are_red_and_nothing_else_is(tmp_path, profile):
    scene = grey(tmp_path / "a.tif", 160, 160, value=90, **profile)
    found = drawn(scene_job(tmp_path / "out", {scene: Found(failed=[4])}))
    assert found.holes
    red = (found.rgb[..., 0].astype(int) - found.rgb[..., 1]) > 20
    rows, columns = np.nonzero(red)
    times = found.rgb.shape[0] // 160
    # Tile 4 is [48, 112) a side, and its neighbours saw all but [64, 96).
    assert abs(rows.min() - 64 * times) <= 3 and abs(rows.max() - 96 * times) <= 3
    assert abs(columns.min() - 64 * times) <= 3 and abs(columns.max() - 96 * times) <= 3


def test_a_damaged_block_costs_its_own_part_of_the_picture(tmp_path):
    noise = np.random.default_rng(0).integers(50, 250, (3, 512, 512), dtype=np.uint8)
    path = write(tmp_path / "a.tif", noise, tiled=True, blockxsize=64, blockysize=64, compress="deflate", **PLACED)
    scene = open_scene(path)
    damage(path, 4, 2)
    scene = open_scene(path)
    found = read_small(scene, Size(512, 512), bands=choose_bands(scene), scaling=EIGHT_BITS)
    assert found.damaged[128:192, 256:320].all() and 0.01 < found.damaged.mean() < 0.1
    assert (found.rgb[~found.damaged] == noise.transpose(1, 2, 0)[~found.damaged]).all()
    page = report(scene_job(tmp_path / "out", {path: Found(failed=[20])}))
    assert "Parts of the file are damaged and could not be read." in page.text and len(page.images) == 1


def test_a_scene_without_overviews_that_is_too_large_keeps_its_outlines(tmp_path, monkeypatch):
    scene = grey(tmp_path / "a.tif", 1000, 2000)
    out = scene_job(tmp_path / "out", {scene: Found([(100, 100, 900, 700)])}, tile_px=512, overlap_px=64)
    small = read_small  # the same with another bound
    monkeypatch.setattr(overviews, "read_small", lambda *a, **k: small(*a, **k, max_pixels=1_000_000))
    found = drawn(out)
    assert "2 million pixels without overviews" in found.trouble[0] and "gdaladdo" in found.trouble[0]
    assert (found.rgb[200, 200] != found.rgb[400, 700]).any() and found.drawn == 1
    assert "Its pixels are not shown: 2 million pixels without overviews" in report(out).text
    with rasterio.open(scene, "r+") as file:
        file.build_overviews([2, 4], rasterio.enums.Resampling.average)
    opened = open_scene(scene)
    assert small(opened, Size(200, 400), bands=choose_bands(opened), scaling=EIGHT_BITS, max_pixels=1_000_000).valid.all()
    with pytest.raises(ImageTooLarge, match="2 million pixels"):
        small(opened, Size(700, 1400), bands=choose_bands(opened), scaling=EIGHT_BITS, max_pixels=1_000_000)


def test_pixels_without_data_are_dark_and_values_are_scaled_as_in_the_job(tmp_path):
    values = np.full((3, 100, 200), 6000, np.uint16)
    values[:, :, :100] = 7
    path = write(tmp_path / "a.tif", values, nodata=7, **PLACED)
    scene = open_scene(path)
    found = read_small(scene, Size(50, 100), bands=choose_bands(scene), scaling=Scaling((0.0,) * 3, (10000.0,) * 3))
    assert found.valid.mean() == 0.5 and (found.rgb[:, 50:] == 153).all() and (found.rgb[:, :50] == 0).all()
    palette = write(
        tmp_path / "p.tif", np.ones((1, 40, 40), np.uint8), palette={0: (0, 0, 0, 255), 1: (9, 8, 7, 255)}, colours=["palette"]
    )
    scene = open_scene(palette)
    assert (read_small(scene, Size(20, 20), bands=choose_bands(scene), scaling=EIGHT_BITS).rgb == (9, 8, 7)).all()


def test_of_very_many_objects_the_largest_and_a_part_of_the_others_are_drawn(tmp_path, monkeypatch):
    boxes = [(10 * i, 10 * j, 10 * i + 2, 10 * j + 2) for i in range(20) for j in range(20)]
    boxes += [(210, 210, 250, 250), (300, 300, 340, 340)]
    scene = grey(tmp_path / "a.tif", 400, 400)
    out = scene_job(tmp_path / "out", {scene: Found(boxes)}, tile_px=512)
    found = drawn(out, most_objects=120)
    assert (found.drawn, found.objects) == (120, 402)
    changed = (found.rgb != 100).any(axis=2)
    times = found.rgb.shape[0] // 400
    assert all(changed[times * y, times * y] for y in (230, 320))
    cells = changed[: 200 * times, : 200 * times].reshape(4, 50 * times, 4, 50 * times).any(axis=(1, 3))
    assert cells.all()  # spread over the scene
    assert "A sample of" not in report(out).text
    monkeypatch.setattr(overviews.overview, "__kwdefaults__", {**overviews.overview.__kwdefaults__, "most_objects": 120})
    assert "A sample of 120 objects is drawn" in report(out).text


def test_what_polygons_leave_out_is_darkened_and_its_tiles_are_not_left(tmp_path):
    half = Aoi(shapely.to_wkb(shapely.box(0, 0, 60, 160)), None, "half.geojson")
    scene = grey(tmp_path / "a.tif", 160, 160, value=200)
    out = scene_job(tmp_path / "out", {scene: Found([(2, 2, 40, 40)])}, aoi=half)
    found = drawn(out)
    times = found.rgb.shape[0] // 160
    assert found.rgb[150 * times, 20 * times].tolist() == [200] * 3 and found.rgb[150 * times, 100 * times].tolist() == [90] * 3
    page = report(out)
    assert (
        "Complete. 1 scene, whole; of its 6 tiles none failed." in page.text
        and "Tiles outside the polygons were not asked for." in page.text
    )
    assert tally_scenes(Store(str(out))).counts["unasked_tiles"] == 3


def test_a_label_map_lies_over_its_scene_with_a_legend(tmp_path):
    labels = np.zeros((100, 200), np.uint8)
    labels[:, 100:] = 1
    labels[:, 150:] = 2
    labels[:10] = 255
    names = ["background", "road", "water"]
    scene = grey(tmp_path / "a.tif", 100, 200)
    out = scene_job(tmp_path / "out", {scene: Found(labels=labels)}, labels=names, task="semantic")
    found = drawn(out, labels=names, skip=[0])
    assert found.shares == pytest.approx({0: 0.5, 1: 0.25, 2: 0.25})
    at = {x: found.rgb[300, 4 * x].astype(int) for x in (50, 120, 180)}
    assert at[50].tolist() == [100] * 3 and found.rgb[10, 720].tolist() == [100] * 3
    for x, class_id in ((120, 1), (180, 2)):
        assert np.abs(at[x] - (100 * 0.55 + PALETTE[class_id] * 0.45)).max() <= 1
    page = report(out)
    assert "background 50%" in page.text and "water 25%" in page.text and "label map of" in page.text
    assert "What was found" not in page.text and "fragments" not in page.text
    assert (read_small_labels(str(out / "label_maps/a.tif"), Size(50, 100), void=255)[20, ::25] == [0, 0, 1, 2]).all()


def test_a_label_map_that_is_gone_leaves_the_scene(tmp_path):
    scene = grey(tmp_path / "a.tif", 64, 64)
    out = scene_job(tmp_path / "out", {scene: Found(labels=np.ones((64, 64), np.uint8))}, task="semantic")
    (out / "label_maps/a.tif").unlink()
    found = drawn(out)
    assert (found.rgb[20, 20] == 100).all() and "a.tif: cannot be read" in found.trouble[0] and not found.shares
    assert "What was found in it is not shown" in report(out).text


def test_a_job_of_which_no_scene_could_be_opened_has_a_report(tmp_path):
    (tmp_path / "bad.tif").write_bytes(b"x")
    page = report(scene_job(tmp_path / "out", {str(tmp_path / "bad.tif"): Found()}))
    assert "1 scene failed" in page.text and "not recognized" in page.text and not page.images
    assert "0 tiles:0 predicted" in page.text


def test_regions_of_a_semantic_job_are_counted(tmp_path):
    labels = np.ones((64, 64), np.uint8)
    scene = grey(tmp_path / "a.tif", 64, 64)
    out = scene_job(
        tmp_path / "out", {scene: Found([(0, 0, 64, 64)], labels=labels)}, labels=["a", "b"], task="semantic", regions="all"
    )
    page = report(out)
    assert "1regionsas polygons" in page.text and "What was found" in page.text and "Scores" not in page.text


def test_the_largest_scenes_and_those_with_holes_are_shown_and_no_more_than_six(tmp_path):
    tiny = grey(tmp_path / "tiny.tif", 20, 20)
    scenes = {tiny: Found(failed=[0])}
    for i in range(9):
        scenes[grey(tmp_path / f"s{i}.tif", 40 + i, 60)] = Found()
    out = scene_job(tmp_path / "out", scenes)
    rows = shown(tally_scenes(Store(str(out))))
    assert [Path(row.uri).stem for row in rows] == ["s8", "s7", "s6", "s5", "s4", "tiny"]
    assert len(report(out).images) == 6


def test_a_scene_that_vanished_or_was_replaced_keeps_its_outlines_and_says_why(tmp_path):
    gone, replaced = grey(tmp_path / "gone.tif", 100, 100), grey(tmp_path / "new.tif", 100, 100)
    out = scene_job(tmp_path / "out", {gone: Found([(5, 5, 60, 60)]), replaced: Found()})
    Path(gone).unlink()
    grey(tmp_path / "new.tif", 100, 120)
    page = report(out)
    assert page.text.count("Its pixels are not shown:") == 2 and len(page.images) == 2
    assert "was replaced since the job was planned" in page.text
    coloured = [picture.max(axis=2).astype(int) - picture.min(axis=2) > 40 for picture in page.pictures()]
    assert [bool(c.any()) for c in coloured] == [True, False]


def test_damage_is_named_and_costs_only_its_own_scene(tmp_path):
    scenes = {grey(tmp_path / f"s{i}.tif", 40, 60): Found([(1, 1, 30, 30)]) for i in range(3)}
    out = scene_job(tmp_path / "out", scenes)
    cut = min((out / "objects").iterdir())
    cut.write_bytes(cut.read_bytes()[:200])
    (out / "tiles/images" / min(p.name for p in (out / "tiles/images").iterdir())).write_bytes(b"x")
    page = report(out)
    assert "Damaged. 2 files cannot be read" in page.text and cut.name in page.text and "rayseg verify" in page.text
    assert tally_scenes(Store(str(out))).sums.ok == 2 and len(page.images) == 3
    (out / "scenes/000000.parquet").write_bytes(b"x")
    page = report(out)
    assert "scenes/000000.parquet" in page.text and page.text.count("Cannot be shown") == 2


def test_names_and_reasons_cannot_become_markup(tmp_path):
    scenes = {}
    for i, name in enumerate(NASTY):
        path = tmp_path / f"in{i}" / name
        path.parent.mkdir()
        if i % 2:
            path.parent.joinpath(name).write_bytes(b"no raster")
            scenes[str(path)] = Found()
        elif "/" not in name:
            scenes[grey(path, 40, 40, driver="PNG" if name.endswith("png") else "GTiff", crs=None)] = Found(failed=[0])
    labels = ["</style><script>y</script>", '"><b onclick=z>']
    page = report(scene_job(tmp_path / "o<script>u", scenes, labels=labels, settings={"source": "s3://me:pass@b/<script>w"}))
    assert not [tag for tag, _ in page.tags if tag in ("script", "iframe", "object", "link")]
    assert not [a for _, attrs in page.tags for a in attrs if a.startswith("on")]
    assert all(src.startswith("data:image/jpeg;base64,") for src in page.images) and page.images
    assert "me:pass" not in page.html and "\u202e" not in page.html
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'") and not re.search(r"url\(|@import", page.html)


def test_six_scenes_of_noise_stay_below_five_megabytes(tmp_path):
    rng, scenes = np.random.default_rng(0), {}
    for i in range(6):
        values = rng.integers(0, 255, (3, 900, 900), dtype=np.uint8)
        scenes[write(tmp_path / f"{i}.tif", values, **PLACED)] = Found()
    page = report(scene_job(tmp_path / "out", scenes, tile_px=512))
    assert len(page.images) == 6 and len(page.html) < 5_000_000


def test_an_output_on_an_object_store_gets_its_report_there(tmp_path):
    import fsspec

    out = scene_job(tmp_path / "out", {grey(tmp_path / "a.tif", 100, 100): Found([(5, 5, 60, 60)])})
    fsspec.filesystem("memory").put(str(out), "/scenes/out", recursive=True)
    store = Store("memory://scenes/out")
    assert write_report(store) == "memory://scenes/out/report.html"
    page = Page(store.read("report.html").decode())
    assert len(page.images) == 1 and "1 object in 4 tiles" in page.text


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_scenes_and_results_in_buckets_are_shown_with_the_credentials_given(tmp_path):
    pytest.importorskip("s3fs")
    for bucket in ("raw", "results"):
        (tmp_path / "s3" / bucket).mkdir(parents=True)
    # Small enough for one request: rclone answers a part of a file with status 200, which GDAL takes for the whole of it.
    grey(tmp_path / "s3/raw/a.tif", 100, 100, compress="deflate")
    labels = np.ones((100, 100), np.uint8)
    with no_other_credentials(), serve_s3(tmp_path / "s3") as server:
        options = {**server.options}
        found = {"s3://raw/a.tif": Found(labels=labels)}
        out = scene_job(tmp_path / "s3/results/out", found, task="semantic", storage=options)
        store = Store("s3://results/out", options)
        assert write_report(store, source_options=options) == "s3://results/out/report.html"
        page = Page((out / "report.html").read_text(encoding="utf-8"))
        assert "tree 100%" in page.text and "not shown" not in page.text and server.options["secret"] not in page.html
        (picture,) = page.pictures()
        assert np.abs(picture[300, 300].astype(int) - (100 * 0.55 + PALETTE[1] * 0.45)).max() < 8
        write_report(store)
        page = Page((out / "report.html").read_text(encoding="utf-8"))
        assert "Its pixels are not shown: s3://raw/a.tif" in page.text and "tree 100%" in page.text
        close_all()


def test_without_the_extra_the_page_has_no_pictures_and_says_so(tmp_path):
    out = scene_job(tmp_path / "out", {grey(tmp_path / "a.tif", 100, 100): Found([(5, 5, 60, 60)], failed=[0])})
    code = f"""
import importlib.util as u, sys
real = u.find_spec
u.find_spec = lambda name, *a: None if name in ("rasterio", "shapely", "pyproj") else real(name, *a)
from rayseg.pipeline.report import write_report
from rayseg.pipeline.storage import Store
write_report(Store({str(out)!r}))
print({{"ray", "paddle", "rasterio", "shapely"}} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
    page = Page((out / "report.html").read_text(encoding="utf-8"))
    assert "No pictures here" in page.text and "pip install 'rayseg[geo]'" in page.text and not page.images
    assert "1 scene incomplete, 1 tile failed" in page.text and "What was found" in page.text


def test_the_lines_shown_run_and_give_the_objects(tmp_path):
    duckdb, geopandas = pytest.importorskip("duckdb"), pytest.importorskip("geopandas")
    (tmp_path / "bad.tif").write_bytes(b"x")
    boxes = [(5, 5, 60, 60), (10, 70, 20, 75), (70, 70, 90, 80)]
    scenes = {grey(tmp_path / "a.tif", 100, 100): Found(boxes), str(tmp_path / "bad.tif"): Found()}
    out = query.where(Store(str(scene_job(tmp_path / "it's out", scenes))))
    assert sorted(duckdb.sql(query.sql(out)).fetchall()) == [("house", 2, (3025 + 200) / 2), ("tree", 1, 50)]
    names: dict = {}
    exec(query.geopandas(out), names)
    found = names["found"]
    assert isinstance(found, geopandas.GeoDataFrame) and found.crs.to_epsg() == 32633 and len(found) == 3
    assert found.area.sum() == pytest.approx((3025 + 50 + 200) * 0.25)


def test_settings_of_scenes_are_among_the_details_and_secrets_are_not(tmp_path):
    scene = grey(tmp_path / "a.tif", 64, 64)
    settings = {"source_options": {"secret": "(not stored)", "endpoint_url": "http://x"}}
    out = scene_job(tmp_path / "out", {scene: Found()}, settings=settings)
    page = report(out, source_options={"secret": "s3cret"})
    assert "overlap px16" in page.text and "s3cret" not in page.html and "http://x" not in page.html
    assert json.loads((out / "job.json").read_text())["settings"]["source_options"] and len(page.images) == 1
