"""YAML and `-o key=value` into a settings dataclass."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, make_dataclass
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rayseg.config.load import build, nearest, parse_overrides, read_yaml
from rayseg.errors import ConfigError


@dataclass(frozen=True)
class Oven:
    name: str
    heat: float = 180.0
    trays: int = 2
    fan: bool = False
    limit: str | None = None
    sizes: tuple[int, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)
    door: int | str = 0


OVENS = st.fixed_dictionaries(
    {"name": st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=8)},
    optional={
        "heat": st.floats(allow_nan=False),
        "trays": st.integers(),
        "fan": st.booleans(),
        "limit": st.none() | st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=8),
        "sizes": st.lists(st.integers(), max_size=3),
        "extra": st.dictionaries(st.sampled_from("abc"), st.integers(), max_size=2),
    },
)


@given(OVENS)
def test_what_is_written_as_yaml_is_what_the_settings_hold(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("yaml") / "oven.yaml"
    path.write_text(yaml.safe_dump(values))
    oven = build(Oven, read_yaml(path))
    for key, value in values.items():
        assert getattr(oven, key) == (tuple(value) if key == "sizes" else value)


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,9}", fullmatch=True), st.integers() | st.booleans() | st.none(), max_size=4))
def test_overrides_are_read_as_yaml_reads_the_same_scalars(values):
    assert parse_overrides([f"{key}={yaml.safe_dump(value)}" for key, value in values.items()]) == values


@given(st.text(max_size=6), st.sampled_from([f for f in Oven.__dataclass_fields__ if f != "name"]))
def test_a_setting_is_honoured_or_refused_and_never_dropped(text, key):
    try:
        values = parse_overrides([f"{key}={text}"])
        oven = build(Oven, {"name": "a", **values})
    except ConfigError:
        return
    assert asdict(oven)[key] == (tuple(values[key]) if key == "sizes" else values[key]) or str(values[key]) == getattr(oven, key)


@pytest.mark.parametrize(
    "text, value",
    [
        ("5", 5),
        ("0.5", 0.5),
        ("1e-3", 0.001),
        ("true", True),
        ("null", None),
        ("text", "text"),
        ("", ""),
        ("a=b", "a=b"),
        ("1:8", "1:8"),
    ],
)
def test_the_value_of_an_override_is_a_scalar(text, value):
    found = parse_overrides([f" key ={text}"])["key"]
    assert found == value and type(found) is type(value)


def test_a_number_where_text_is_wanted_is_taken_as_it_was_typed():
    assert build(Oven, {"name": "a", "limit": 20}).limit == "20"
    assert build(Oven, parse_overrides(["name=7", "limit=1:8"])) == Oven("7", limit="1:8")


def test_the_last_of_two_equal_overrides_wins():
    assert parse_overrides(["heat=1", "heat=2"]) == {"heat": 2}


def test_a_whole_number_is_taken_where_a_real_one_is_wanted():
    heat = build(Oven, {"name": "a", "heat": 3}).heat
    assert heat == 3.0 and isinstance(heat, float)


def test_every_kind_of_a_union_is_tried():
    assert build(Oven, {"name": "a", "door": 3}).door == 3
    assert build(Oven, {"name": "a", "door": "left"}).door == "left"
    assert build(Oven, {"name": "a", "limit": None}).limit is None


def test_an_unknown_setting_is_refused_with_the_nearest_one():
    with pytest.raises(ConfigError, match=r"oven\.yaml: unknown setting 'tray'; did you mean 'trays'\?"):
        build(Oven, {"name": "a", "tray": 3}, where="oven.yaml")


def test_a_setting_near_none_is_refused_with_all_of_them():
    with pytest.raises(ConfigError, match="unknown setting 'zzzz'; known are door, extra, fan, heat, limit, name, sizes, trays"):
        build(Oven, {"name": "a", "zzzz": 3})
    assert nearest("trai", ["trays", "fan"]) == "; did you mean 'trays'?"


def test_a_missing_setting_is_named():
    with pytest.raises(ConfigError, match="settings: missing setting name"):
        build(Oven, {})


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("trays", "two", "settings: trays: expected int, got 'two'"),
        ("trays", 2.5, "trays: expected int, got 2.5"),
        ("trays", True, "trays: expected int, got True"),
        ("trays", None, "trays: expected int, got None"),
        ("fan", 1, "fan: expected bool, got 1"),
        ("fan", "yes", "fan: expected bool, got 'yes'"),
        ("heat", "hot", "heat: expected float, got 'hot'"),
        ("heat", False, "heat: expected float, got False"),
        ("name", ["a"], r"name: expected str, got \['a'\]"),
        ("name", True, "name: expected str, got True"),
        ("name", None, "name: expected str, got None"),
        ("limit", {}, "limit: expected str or null, got {}"),
        ("sizes", 3, "sizes: expected a list, got 3"),
        ("sizes", [1, "x"], "sizes: expected int, got 'x'"),
        ("extra", [1], r"extra: expected a mapping, got \[1\]"),
        ("door", 1.5, "door: expected int or str, got 1.5"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused(key, value, message):
    with pytest.raises(ConfigError, match=message):
        build(Oven, {"name": "a", key: value})


@pytest.mark.parametrize("pair", ["heat", "=3", " =3", ""])
def test_an_override_without_key_or_equals_sign_is_refused(pair):
    with pytest.raises(ConfigError, match=f"-o '{pair}': expected key=value"):
        parse_overrides([pair])


def test_an_override_that_is_no_yaml_is_refused():
    with pytest.raises(ConfigError, match="the value is not a YAML scalar"):
        parse_overrides(["heat=[1"])


def test_an_empty_file_holds_no_settings(tmp_path):
    (tmp_path / "a.yaml").write_text("# nothing yet\n")
    assert read_yaml(tmp_path / "a.yaml") == {}


@pytest.mark.parametrize(
    "text, message",
    [
        ("- a\n- b\n", "expected `key: value` lines, found a list"),
        ("a: [1\n", "not a YAML file"),
        ("a: !!python/object/apply:os.getcwd []\n", "not a YAML file"),
        ("trays: 1\nfan: true\ntrays: 2\n", r"(?s)'trays' is there twice.*line 3"),
    ],
)
def test_a_file_that_is_no_mapping_of_plain_values_is_refused(tmp_path, text, message):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_yaml(path)


def test_a_file_that_is_not_there_or_is_no_text_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read the settings file \(No such file"):
        read_yaml(tmp_path / "gone.yaml")
    (tmp_path / "photo.yaml").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(ConfigError, match=r"photo\.yaml: not a YAML file"):
        read_yaml(tmp_path / "photo.yaml")


def test_a_class_that_refuses_its_values_is_heard():
    def refuse(self):
        raise ConfigError("heat 999 would melt it")

    hot = make_dataclass("Hot", [("heat", int)], frozen=True, namespace={"__post_init__": refuse})
    with pytest.raises(ConfigError, match="would melt it"):
        build(hot, {"heat": 999})
