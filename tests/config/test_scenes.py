"""Settings of scenes."""

from __future__ import annotations

from dataclasses import fields

import pytest

from rayseg.config.load import build
from rayseg.config.scenes import DEFAULT_TILE_PX, SceneSettings
from rayseg.config.segment import SegmentSettings
from rayseg.errors import ConfigError

GOOD = {"source": "in", "out": "out", "model": "model"}


@pytest.mark.parametrize(
    ("given", "model_px", "tiling"),
    [
        ({}, None, (DEFAULT_TILE_PX, 204)),
        ({}, 640, (640, 128)),
        ({"tile_px": 300}, 640, (300, 60)),
        ({"object_px": 90}, 640, (640, 90)),
        ({"object_px": 90, "overlap_px": 70}, 640, (640, 70)),
        ({"tile_px": 1}, None, (1, 0)),
    ],
)
def test_tiles_follow_what_is_said_then_the_model_and_overlaps_the_objects(given, model_px, tiling):
    assert SceneSettings(**given).tiling(model_px) == tiling


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"tile_px": 0}, "tile_px must be at least 1"),
        ({"overlap_px": 0}, "share no pixel"),
        ({"overlap_px": 64, "tile_px": 64}, "overlap_px 64 with tiles of 64 px"),
        ({"object_px": 99, "tile_px": 64}, "object_px 99 with tiles of 64 px"),
        ({"coarse": 1}, "coarse must be at least 2"),
        ({"simplify_px": -1.0}, "simplify_px must be 0 or"),
        ({"simplify_px": float("nan")}, "simplify_px must be 0 or"),
        ({"seams": "soft"}, "'soft' is unknown; use auto, blend, centre"),
    ],
)
def test_settings_that_cannot_be_honoured_are_refused_by_name(given, words):
    with pytest.raises(ConfigError, match=words):
        SceneSettings(**given)


def test_an_overlap_as_large_as_the_models_input_is_refused_when_that_is_known():
    with pytest.raises(ConfigError, match="overlap_px 640 with tiles of 640 px"):
        SceneSettings(overlap_px=640).tiling(640)


@pytest.mark.parametrize("name", ["max_pixels", "allow_truncated", "scaled_decode", "decode_timeout_s", "save_label_maps"])
def test_what_is_said_of_whole_images_is_refused_for_scenes(name):
    changed = {"max_pixels": 10, "allow_truncated": True, "scaled_decode": True, "decode_timeout_s": 1.0, "save_label_maps": True}
    with pytest.raises(ConfigError, match=name):
        SegmentSettings(**GOOD, scenes=SceneSettings(), **{name: changed[name]})


def test_they_are_read_from_a_mapping_and_unknown_ones_are_refused():
    assert build(SegmentSettings, {**GOOD, "scenes": {"tile_px": 512}}).scenes == SceneSettings(tile_px=512)
    with pytest.raises(ConfigError, match="scenes"):
        build(SegmentSettings, {**GOOD, "scenes": {"tile": 512}})


def test_every_setting_has_a_sentence_in_the_docstring():
    for f in fields(SceneSettings):
        assert f"        {f.name}: " in SceneSettings.__doc__
