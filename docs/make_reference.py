"""The reference pages are made from the code when the site is built, so they cannot be stale: a hook of mkdocs (mkdocs.yml).

A line `<!-- reference: WHAT [NAME] -->` of a page is replaced by what it names, see `MAKERS`. The same hook takes away
the words behind the language of a fenced block, which only tell tests/docs whether the block is run.

    python docs/make_reference.py docs/reference/settings.md      # prints the page as it is built
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

_MARK = re.compile(r"^<!-- reference: (?P<what>[\w-]+) ?(?P<name>[\w./]*) -->$", re.MULTILINE)
_FENCE = re.compile(r"^(?P<start> *`{3,}\w+) .*$", re.MULTILINE)
_FIELD = re.compile(r"^ {4}(?P<names>\w+(?:, \w+)*): (?P<text>.*(?:\n {8}.*)*)", re.MULTILINE)
_HELP_COLUMNS = 110
_ROOT = Path(__file__).resolve().parents[1]


def on_page_markdown(markdown: str, **_: Any) -> str:
    """What mkdocs calls for each page."""
    return expand(markdown)


def expand(markdown: str) -> str:
    """A page with its references in place.

    Raises:
        KeyError: a line asks for something that nobody makes.
    """
    made = _MARK.sub(lambda found: MAKERS[found["what"]](found["name"]).rstrip(), markdown)
    return _FENCE.sub(r"\g<start>", made)


def settings_table(name: str) -> str:
    """The fields of a settings class, such as rayseg.config.segment.SegmentSettings, in the order of the class."""
    module, _, attribute = name.rpartition(".")
    cls = getattr(import_module(module), attribute)
    rows = [
        (f"`{path}`", f"`{_type(field)}`", _default(field), meaning)
        for path, field, meaning in _fields(cls)
        if not dataclasses.is_dataclass(_made(field))
    ]
    return _table(("setting", "type", "default", "meaning"), rows)


def field_meanings(cls: type[Any]) -> dict[str, str]:
    """What a class says of its fields: below each, or under `Attributes:` in its docstring. One it says nothing of is absent."""
    found: dict[str, str] = {}
    listed = inspect.getdoc(cls) or ""
    for match in _FIELD.finditer(listed.partition("Attributes:\n")[2]):
        found |= dict.fromkeys(match["names"].split(", "), " ".join(match["text"].split()))
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(tree, ast.ClassDef)
    for field, below in zip(tree.body, tree.body[1:], strict=False):
        told = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) and isinstance(below.value.value, str)
        if told and isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            found[field.target.id] = " ".join(str(below.value.value).split())
    return found


def commands(_: str = "") -> str:
    """What every command says of itself with --help."""
    os.environ["COLUMNS"] = str(_HELP_COLUMNS)  # argparse breaks its lines there
    parts = []
    for name, parser in command_parsers().items():
        text = parser.format_help().replace("rayseg COMMAND", "rayseg")
        parts.append(f"## rayseg {name}\n\n```text\n{text}```\n")
    return "\n".join(parts)


def command_parsers() -> dict[str, Any]:
    """The parser of each command, in the order of `rayseg --help`."""
    from rayseg import cli

    parser = cli._parser()
    (found,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return dict(found.choices)


def public_names(_: str = "") -> str:
    """All names of `rayseg.PUBLIC`, with their docstrings, for mkdocstrings."""
    import rayseg

    return "\n\n".join(f"::: {module}.{name}" for name, module in sorted(rayseg.PUBLIC.items()))


def errors(_: str = "") -> str:
    """The tree of errors, as errors.py draws it."""
    from rayseg import errors as module

    tree = textwrap.dedent((module.__doc__ or "").split("\n\n")[1])
    return f"```text\n{tree}\n```"


def metrics(_: str = "") -> str:
    """The Prometheus series."""
    from rayseg.pipeline.metrics import JOB, SERIES

    rows = [(f"`ray_{s.name}`", s.kind, ", ".join(f"`{t}`" for t in (JOB, *s.tags)), s.meaning) for s in SERIES]
    return _table(("series", "kind", "tags", "meaning"), rows)


def file(name: str) -> str:
    """A Python file of the repository."""
    return f"```python\n{(_ROOT / name).read_text(encoding='utf-8')}```"


MAKERS: dict[str, Callable[[str], str]] = {
    "settings": settings_table,
    "commands": commands,
    "public": public_names,
    "errors": errors,
    "metrics": metrics,
    "file": file,
}
"""Word in a page -> what takes its place."""


def _fields(cls: type[Any], prefix: str = "") -> Iterable[tuple[str, dataclasses.Field[Any], str]]:
    """Fields of a class and, below them, of the sections that it always has."""
    meanings = field_meanings(cls)
    for field in dataclasses.fields(cls):
        path = f"{prefix}{field.name}"
        yield path, field, meanings.get(field.name, "")
        inner = _made(field)
        if dataclasses.is_dataclass(inner):
            yield from _fields(type(inner), prefix=f"{path}.")  # type: ignore[arg-type]


def _made(field: dataclasses.Field[Any]) -> object:
    return None if field.default_factory is dataclasses.MISSING else field.default_factory()


def _type(field: dataclasses.Field[Any]) -> str:
    """As a YAML file sees it; a table has no room for the sign that Python uses."""
    return str(field.type).replace(" | ", " or ").replace("None", "null")


def _default(field: dataclasses.Field[Any]) -> str:
    value = _made(field) if field.default is dataclasses.MISSING else field.default
    if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
        return "must be given"
    words = {None: "null", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return f"`{words[value]}`"
    return f"`{list(value) if isinstance(value, tuple) else value}`"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


if __name__ == "__main__":
    for path in sys.argv[1:]:
        sys.stdout.write(expand(Path(path).read_text(encoding="utf-8")))
