"""YAML and `-o key=value` into a frozen dataclass. An unknown key is refused with the nearest known one; nothing is evaluated.

A settings class is a frozen dataclass with plain fields; it checks its own values in `__post_init__` by raising ConfigError.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from rayseg.errors import ConfigError

T = TypeVar("T")


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        ConfigError: the file is missing, is not YAML, or holds something else than a mapping.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the settings file ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a YAML file: {error}") from error
    try:
        found = _load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not a YAML file: {yaml_problem(error)}") from error
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: expected `key: value` lines, found a {type(found).__name__}")
    return found


def yaml_problem(error: yaml.YAMLError) -> str:
    """What is wrong with a YAML text and where, on one line; the parser draws a picture of several."""
    problem, mark = getattr(error, "problem", None), getattr(error, "problem_mark", None)
    if problem is None or mark is None:
        return " ".join(str(error).split())
    return f"{problem}, in line {mark.line + 1}, column {mark.column + 1}"


def parse_overrides(pairs: Iterable[str], *, flag: str = "-o") -> dict[str, Any]:
    """`key=value` strings into a mapping. Values are YAML scalars: 5, 0.5, true, null, text; only the first `=` splits.

    Args:
        flag: that brought the strings, for messages.

    Raises:
        ConfigError: no `=`, an empty key, or a value that is no YAML.
    """
    out: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"{flag} {pair!r}: expected key=value")
        try:
            out[key.strip()] = _load(text) if text else ""
        except yaml.YAMLError as error:
            raise ConfigError(f"{flag} {pair!r}: the value is not a YAML scalar: {yaml_problem(error)}") from error
    return out


def build(cls: type[T], values: Mapping[str, Any], *, where: str = "settings") -> T:
    """Make a settings dataclass from a mapping.

    Args:
        where: names the origin in messages, such as a file name.

    Raises:
        ConfigError: a key the class does not have, a value of the wrong type, or a required one that is missing.
    """
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    types_of = typing.get_type_hints(cls)
    for key in values:
        if key not in fields:
            raise ConfigError(f"{where}: unknown setting {key!r}{nearest(str(key), fields)}")
    missing = [
        name
        for name, f in fields.items()
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING and name not in values
    ]
    if missing:
        raise ConfigError(f"{where}: missing setting {', '.join(missing)}")
    return cls(**{key: _convert(value, types_of[key], f"{where}: {key}") for key, value in values.items()})


def to_yaml(values: Any, *, inline: bool = False) -> str:
    """Plain values as text that `read_yaml`, and any other reader of YAML, takes for the same.

    Args:
        inline: on one line and without its end, as `-o` takes them.
    """
    text = str(yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10_000, default_flow_style=inline))
    return text.removesuffix("...\n").rstrip("\n") if inline else text


def nearest(key: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or the list of what is known when nothing is near."""
    names = sorted(known)
    close = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(names)}"


class _Loader(yaml.SafeLoader):
    """Plain values only; numbers as in YAML 1.2 (1e-3 is one, 1:8 and 2024-01-01 are text); no key may be there twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                twice = f"{key.value!r} is there twice"
                raise yaml.constructor.ConstructorError(problem=twice, problem_mark=key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


_INT, _FLOAT, _DATE = (f"tag:yaml.org,2002:{name}" for name in ("int", "float", "timestamp"))
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag not in (_INT, _FLOAT, _DATE)]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_INT, re.compile(r"[-+]?(0|[1-9][0-9]*)$"), [*"-+0123456789"])
_Loader.add_implicit_resolver(
    _FLOAT,
    re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?$|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$"),
    [*"-+.0123456789"],
)


class _Dumper(yaml.SafeDumper):
    """Mappings over lines, lists of plain values within one. Text that any reader would take for a number or word is quoted."""

    def represent_list(self, data: list[Any]) -> yaml.Node:
        inline = not any(isinstance(value, dict) for value in data)
        return self.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=inline)


_Dumper.add_representer(list, _Dumper.represent_list)
_Dumper.yaml_implicit_resolvers = {
    first: [*yaml.SafeDumper.yaml_implicit_resolvers.get(first, []), *_Loader.yaml_implicit_resolvers.get(first, [])]
    for first in {**yaml.SafeDumper.yaml_implicit_resolvers, **_Loader.yaml_implicit_resolvers}
}


def _load(text: str) -> Any:
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def _convert(value: Any, wanted: Any, where: str) -> Any:
    origin = typing.get_origin(wanted)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(value, typing.get_args(wanted), where)
    if origin is dict:
        if isinstance(value, Mapping):
            return dict(value)
        raise ConfigError(f"{where}: expected a mapping, got {value!r}")
    if origin is tuple:
        return _convert_tuple(value, typing.get_args(wanted), where)
    if dataclasses.is_dataclass(wanted):
        return _convert_dataclass(value, wanted, where)
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if wanted is str and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, bool) != (wanted is bool) or not isinstance(value, wanted):
        raise ConfigError(f"{where}: expected {getattr(wanted, '__name__', wanted)}, got {value!r}")
    return value


def _convert_tuple(value: Any, kinds: tuple[Any, ...], where: str) -> tuple[Any, ...]:
    """`tuple[int, ...]` takes a list of any length, `tuple[int, int]` one of two."""
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{where}: expected a list, got {value!r}")
    if kinds[-1] is Ellipsis:
        return tuple(_convert(v, kinds[0], where) for v in value)
    if len(value) != len(kinds):
        raise ConfigError(f"{where}: expected a list of {len(kinds)}, got {value!r}")
    return tuple(_convert(v, kind, where) for v, kind in zip(value, kinds, strict=True))


def _convert_dataclass(value: Any, wanted: Any, where: str) -> Any:
    if isinstance(value, wanted):
        return value
    if isinstance(value, Mapping):
        return build(wanted, value, where=where)
    raise ConfigError(f"{where}: expected a mapping, got {value!r}")


def _convert_union(value: Any, options: tuple[Any, ...], where: str) -> Any:
    if value is None and type(None) in options:
        return None
    if isinstance(value, list) and sum(typing.get_origin(option) is tuple for option in options) == 1:
        wanted = next(option for option in options if typing.get_origin(option) is tuple)
        return _convert(value, wanted, where)  # its message says what is wrong
    if isinstance(value, Mapping) and sum(dataclasses.is_dataclass(o) or typing.get_origin(o) is dict for o in options) == 1:
        section = next(o for o in options if dataclasses.is_dataclass(o) or typing.get_origin(o) is dict)
        return _convert(value, section, where)  # so does this one's
    for option in options:
        if option is type(None):
            continue
        try:
            return _convert(value, option, where)
        except ConfigError:
            continue
    names = " or ".join("null" if o is type(None) else getattr(o, "__name__", str(o)) for o in options)
    raise ConfigError(f"{where}: expected {names}, got {value!r}")
