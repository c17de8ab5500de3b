"""Settings of the main job."""

from __future__ import annotations

from dataclasses import MISSING, fields, replace
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rayseg.config.load import build, parse_overrides, read_yaml
from rayseg.config.scenes import SceneSettings
from rayseg.config.segment import SegmentSettings
from rayseg.errors import ConfigError

GOOD = SegmentSettings(source="in", out="out", model="model")

# Another value for each setting, to see what it changes.
OTHER = {
    "source": "elsewhere",
    "out": "other",
    "model": "other",
    "threshold": 0.3,
    "backend": "eager",
    "precision": "bf16",
    "device": "cpu",
    "max_pixels": 10,
    "allow_truncated": True,
    "scaled_decode": True,
    "max_failures": "5%",
    "save_label_maps": True,
    "predictors": "2",
    "gpus_per_predictor": 0.5,
    "threads_per_predictor": 3,
    "batch_size": 2,
    "chunk_images": 7,
    "decode_timeout_s": 1.0,
    "fetch_attempts": 1,
    "manifest_column": "path",
    "source_options": {"anon": True},
    "out_options": {"anon": False},
    "scenes": SceneSettings(tile_px=512),
}
DECIDE_THE_ROWS = {
    "source",
    "threshold",
    "max_pixels",
    "allow_truncated",
    "scaled_decode",
    "save_label_maps",
    "manifest_column",
    "precision",
    "scenes",
}


@given(st.integers(1, 10**6), st.integers(0, 100), st.integers(0, 99))
@example(100, 29, 0)  # 29 / 100 * 100 is 28.999999999999996
def test_a_share_of_failures_is_the_largest_whole_number_not_above_it(planned, percent, hundredths):
    share = Fraction(percent) + (Fraction(hundredths, 100) if percent < 100 else 0)
    text = f"{percent}.{hundredths:02d}%" if percent < 100 else "100%"
    limit = replace(GOOD, max_failures=text).failure_limit(planned)
    assert limit <= share * planned / 100 < limit + 1


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_count_of_failures_is_that_count_however_much_is_planned(count, planned):
    assert replace(GOOD, max_failures=str(count)).failure_limit(planned) == count


@given(st.integers(1, 99), st.integers(0, 99))
def test_predictors_are_a_number_or_a_range(low, more):
    assert replace(GOOD, predictors=f"{low}:{low + more}").predictor_range() == (low, low + more)
    assert replace(GOOD, predictors=str(low)).predictor_range() == (low, low)


@pytest.mark.parametrize("name", OTHER)
def test_a_setting_belongs_to_the_jobs_identity_exactly_if_it_decides_rows(name):
    changed = replace(GOOD, **{name: OTHER[name]})
    assert (changed.identity() != GOOD.identity()) == (name in DECIDE_THE_ROWS)


def test_the_table_above_knows_every_setting():
    assert set(OTHER) == {f.name for f in fields(SegmentSettings)}


def test_every_setting_has_a_sentence_in_the_docstring():
    for f in fields(SegmentSettings):
        assert f"\n        {f.name}: " in SegmentSettings.__doc__


def test_only_source_out_and_model_must_be_given():
    required = [f.name for f in fields(SegmentSettings) if f.default is MISSING and f.default_factory is MISSING]
    assert required == ["source", "out", "model"]
    assert GOOD.predictor_range() is None and GOOD.failure_limit(100) is None


def test_the_file_of_settings_has_all_of_them_with_their_defaults():
    found = read_yaml(Path(__file__).resolve().parents[2] / "configs" / "segment.yaml")
    given = {"source": GOOD.source, "out": GOOD.out, "model": GOOD.model}
    assert found.keys() == OTHER.keys() - given.keys()
    assert build(SegmentSettings, {**found, **given}) == GOOD


@pytest.mark.parametrize(
    "pair, name, value",
    [
        ("predictors=4", "predictors", "4"),
        ("predictors=1:8", "predictors", "1:8"),
        ("max_failures=20", "max_failures", "20"),
        ("max_failures=1%", "max_failures", "1%"),
        ("threshold=5e-1", "threshold", 0.5),
        ("threshold=null", "threshold", None),
        ("decode_timeout_s=5", "decode_timeout_s", 5.0),
        ("allow_truncated=true", "allow_truncated", True),
    ],
)
def test_settings_can_be_written_as_overrides_without_quotes(pair, name, value):
    found = build(SegmentSettings, {"source": "in", "out": "out", "model": "m", **parse_overrides([pair])})
    assert getattr(found, name) == value


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("threshold", -0.1, r"threshold must lie in \[0, 1\], got -0.1"),
        ("threshold", 1.1, r"threshold must lie in \[0, 1\]"),
        ("threshold", float("nan"), r"threshold must lie in \[0, 1\], got nan"),
        ("max_pixels", 0, "max_pixels must be at least 1, got 0"),
        ("batch_size", 0, "batch_size must be at least 1"),
        ("fetch_attempts", 0, "fetch_attempts must be at least 1"),
        ("chunk_images", 0, "chunk_images must be at least 1"),
        ("threads_per_predictor", -2, "threads_per_predictor must be at least 1, got -2"),
        ("backend", "torch", "backend 'torch' is unknown; use auto, paddle"),
        ("device", "tpu", "device 'tpu' is unknown; expected cpu, gpu"),
        ("gpus_per_predictor", -1.0, "gpus_per_predictor must be a number and not negative, got -1.0"),
        ("gpus_per_predictor", float("nan"), "gpus_per_predictor must be a number and not negative, got nan"),
        ("decode_timeout_s", 0.0, "decode_timeout_s must be a number above 0, got 0.0"),
        ("decode_timeout_s", float("nan"), "decode_timeout_s must be a number above 0, got nan"),
        ("predictors", "0", "predictors '0': expected auto, a number, or MIN:MAX"),
        ("predictors", "3:2", "predictors '3:2'"),
        ("predictors", "many", "predictors 'many'"),
        ("predictors", "1:", "predictors '1:'"),
        ("max_failures", "a few", "max_failures 'a few': expected a count such as 20 or a share such as 1%"),
        ("max_failures", "101%", "max_failures '101%'"),
        ("max_failures", "-1", "max_failures '-1'"),
        ("max_failures", "1.5", "max_failures '1.5'"),
    ],
)
def test_a_value_out_of_range_is_refused_with_the_value(name, value, message):
    with pytest.raises(ConfigError, match=message):
        replace(GOOD, **{name: value})


def test_gpus_for_predictors_on_the_cpu_are_a_contradiction():
    with pytest.raises(ConfigError, match=r"device cpu contradicts gpus_per_predictor 1\.0; drop one of them"):
        replace(GOOD, device="cpu", gpus_per_predictor=1.0)
    replace(GOOD, device="cpu", gpus_per_predictor=0.0)
