"""The reference pages say all there is: every setting with its meaning, every column, command, series and public name."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pyarrow as pa
import pytest

import rayseg
from rayseg import tables
from rayseg.pipeline.metrics import SERIES
from tests.docs.pages import DOCS, PAGES, ROOT

SETTINGS = (DOCS / "reference/settings.md").read_text(encoding="utf-8")
CLASSES = re.findall(r"<!-- reference: settings ([\w.]+) -->", SETTINGS)
# Their names say it, and neither PaddleX nor we know more to say.
SELF_EXPLAINING = {"enable", "train_percent", "val_percent", "weight_decay", "ema_decay", "batch_size", "cpus_per_worker"}


@pytest.fixture(scope="module")
def maker():
    spec = importlib.util.spec_from_file_location("make_reference", DOCS / "make_reference.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", CLASSES)
def test_every_field_of_a_settings_class_is_in_its_table_with_its_meaning(maker, name):
    module, _, attribute = name.rpartition(".")
    cls = getattr(import_module(module), attribute)
    table = maker.settings_table(name)
    for field in dataclasses.fields(cls):
        assert f"`{field.name}" in table, field.name
        assert maker.field_meanings(cls).get(field.name) or field.name in SELF_EXPLAINING or _is_section(field), field.name


def test_every_settings_class_is_on_the_page():
    found = set()
    for path in (ROOT / "rayseg/config").glob("*.py"):
        found |= set(re.findall(r"^class (\w+Settings)\b", path.read_text(encoding="utf-8"), flags=re.MULTILINE))
    inside = {"ConvertSettings", "SplitSettings"}  # of CheckDatasetSettings, in whose table they are
    assert found - inside == {name.rpartition(".")[2] for name in CLASSES}


def test_a_section_within_a_section_is_listed_with_its_path(maker):
    table = maker.settings_table("rayseg.config.sections.CheckDatasetSettings")
    assert "\n| `split.train_percent` | `float or null` | `null` |" in table and "\n| `split` |" not in table


def test_a_table_says_defaults_as_yaml_does(maker):
    table = maker.settings_table("rayseg.config.segment.SegmentSettings")
    assert "| `source` | `str` | must be given |" in table
    assert "| `allow_truncated` | `bool` | `false` |" in table
    assert "| `threshold` | `float or null` | `null` |" in table


def test_the_page_of_tables_has_the_columns_and_types_of_the_schemas():
    page = (DOCS / "reference/tables.md").read_text(encoding="utf-8")
    more = pa.schema(list(tables.SCENES)[len(tables.IMAGES) :])
    for title, schema in (
        ("plan", tables.PLAN),
        ("images", tables.IMAGES),
        ("images of scenes", more),
        ("objects", tables.OBJECTS),
    ):
        part = page.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
        listed = re.findall(r"^\| `(\w+)` \| ([^|]+) \|", part, flags=re.MULTILINE)
        assert listed == [(field.name, str(field.type)) for field in schema], title


def test_the_extras_are_those_of_the_package():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    listed = re.findall(r"^\| `(\w+)` \|", (DOCS / "install.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert sorted(listed) == sorted(extras)


def test_every_command_is_on_its_page_with_its_help(maker):
    made = maker.commands()
    for name in ("segment", "verify", "retry", "report", "train", "tune", "export-geo", "submit", "predict"):
        assert f"## rayseg {name}\n\n```text\nusage: rayseg {name} " in made
    assert set(maker.command_parsers()) == set(re.findall(r"^## rayseg (\S+)$", made, flags=re.MULTILINE))


def test_every_public_name_and_series_is_on_its_page(maker):
    made = maker.public_names()
    assert all(f"::: {module}.{name}" in made for name, module in rayseg.PUBLIC.items())
    assert all(f"`ray_{series.name}`" in maker.metrics() for series in SERIES)
    assert "RaysegError" in maker.errors() and "JobMismatch" in maker.errors()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_no_page_is_built_with_a_mark_left_or_a_word_behind_a_language(maker, page):
    made = maker.expand(page.read_text(encoding="utf-8"))
    assert "<!-- reference" not in made
    assert not re.search(r"^`{3,}\w+ ", made, flags=re.MULTILINE)


def test_a_mark_that_nobody_knows_is_an_error(maker):
    with pytest.raises(KeyError, match="nothing-of-ours"):
        maker.expand("<!-- reference: nothing-of-ours -->")


def test_the_site_is_built_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path):
    pytest.importorskip("mkdocs", reason="needs the extra docs")
    pytest.importorskip("mkdocstrings", reason="needs the extra docs")
    command = [sys.executable, "-W", "ignore", "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": _path()}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    built = (tmp_path / "reference/python.html").read_text(encoding="utf-8")
    assert "run_job" in built and "JobResult" in built
    for page in tmp_path.rglob("*.html"):
        loaded = re.findall(
            r'<(?:script|img|iframe)[^>]+src="([^"]+)"|<link[^>]+href="([^"]+)"', page.read_text(encoding="utf-8")
        )
        assert not [url for pair in loaded for url in pair if url.startswith(("http", "//"))], page


def _is_section(field: dataclasses.Field) -> bool:
    return field.default_factory is not dataclasses.MISSING and dataclasses.is_dataclass(field.default_factory())


def _path() -> str:
    return os.pathsep.join([str(ROOT), *(p for p in sys.path if p and Path(p).is_dir())])
