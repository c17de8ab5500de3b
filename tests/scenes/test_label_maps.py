"""Label maps of scenes through whole jobs: what a model that looks at single pixels says of the scene, whatever the tiles."""

from __future__ import annotations

import cv2
import numpy as np
import pandas as pd
import pytest
import rasterio

from rayseg.config.scenes import SceneSettings
from tests.geo.rasters import UTM, write
from tests.pipeline.jobs import run

VOID = 255
CLASSES = ("low", "middle", "high")
MODEL = f"fake:semantic?labels={','.join(CLASSES)}"


def hills(height: int, width: int, *, period: float = 37.0) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return (127 + 120 * np.sin(x / period) * np.cos(y / (0.7 * period))).astype(np.uint8)


def save(path, band, **profile):
    write(path, band[None], crs="EPSG:32633", transform=UTM, tiled=True, blockxsize=64, blockysize=64, **profile)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Three scenes: an ordinary one, one with a corner without data, one smaller than a tile."""
    folder = tmp_path_factory.mktemp("hills")
    save(folder / "a.tif", hills(300, 420))
    cut = np.maximum(hills(260, 330, period=23), 1)
    cut[:140, :150] = 0
    save(folder / "b.tif", cut, nodata=0)
    save(folder / "c.tif", hills(50, 40))
    return folder


def label_maps(out):
    """By the name of the scene: labels, and the class regions found."""
    ledger, objects = pd.read_parquet(out / "images"), pd.read_parquet(out / "objects")
    found = {}
    for row in ledger.itertuples():
        with rasterio.open(out / row.label_map) as file:
            assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG" and file.crs.to_epsg() == 32633
            assert file.nodata == VOID and file.tags(1)["CLASS_2"] == "high"
            found[row.uri.rsplit("/", 1)[-1]] = file.read(1), objects[objects.unit_id == row.unit_id]
    return found


def truth(folder, name):
    with rasterio.open(folder / name) as file:
        return np.where(file.read_masks(1) > 0, file.read(1).astype(int) * len(CLASSES) // 256, VOID)


@pytest.mark.usefixtures("ray_local")
@pytest.mark.parametrize(
    ("model", "seams"), [(MODEL, "auto"), (f"{MODEL}&output=probabilities", "auto"), (f"{MODEL}&output=probabilities", "centre")]
)
def test_the_map_of_a_scene_is_what_the_model_says_of_each_pixel_and_regions_cross_tiles_as_one(archive, tmp_path, model, seams):
    settings = SceneSettings(tile_px=128, overlap_px=40, regions="low,high", seams=seams)
    result = run(archive, tmp_path / "out", model=model, scenes=settings)
    assert result.complete and result.findings.failed == 0
    found = label_maps(tmp_path / "out")
    assert set(found) == {"a.tif", "b.tif", "c.tif"}
    for name, (labels, regions) in found.items():
        wanted = truth(archive, name)
        np.testing.assert_array_equal(labels, wanted)
        for class_id in (0, 2):
            n, _, stats, _ = cv2.connectedComponentsWithStats((wanted == class_id).astype(np.uint8), connectivity=8)
            mine = regions[regions.class_id == class_id]
            assert sorted(mine.area_px) == sorted(stats[1:n, cv2.CC_STAT_AREA]), name
            assert set(mine.label) <= {CLASSES[class_id]}
        assert not (regions.class_id == 1).any(), "the class in the middle was not asked for"
        assert regions.score.isna().all()


@pytest.mark.usefixtures("ray_local")
def test_without_regions_a_scene_has_its_map_and_no_objects(archive, tmp_path):
    result = run(archive / "a.tif", tmp_path / "out", model=MODEL, scenes=SceneSettings(tile_px=200, overlap_px=20))
    assert result.complete and result.findings.objects == 0
    ((labels, objects),) = label_maps(tmp_path / "out").values()
    np.testing.assert_array_equal(labels, truth(archive, "a.tif"))
    assert objects.empty
