"""What the pages say, without running it: links lead somewhere, names in them exist, commands parse."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from rayseg.cli import _parser
from tests.docs.pages import DOCS, PAGES, ROOT, anchors, blocks, commands, prose

_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_PATH = re.compile(r"`((?:tests|bench|configs|jobs|clusters|dashboards|demo|docs|rayseg)/[\w./-]+)(?:::(\w+))?`")
_ids = [str(page.relative_to(DOCS)) for page in PAGES]


@pytest.mark.parametrize("page", PAGES, ids=_ids)
def test_each_block_of_commands_or_python_is_run_or_says_why_not(page):
    for block in blocks(page):
        if block.language in ("sh", "python"):
            assert block.runs or (block.words[:1] == ("norun",) and len(block.words) > 2), f"{block.where}: {block.words}"
        elif block.language == "text":
            assert block.words in ((), ("output",)), block.where
        else:
            raise AssertionError(f"{block.where}: {block.language!r} is no language of these pages: sh, python or text")


@pytest.mark.parametrize("page", PAGES, ids=_ids)
def test_the_commands_of_a_page_are_those_of_the_command_line(page, capsys):
    for block in blocks(page):
        for words in commands(block.text) if block.language == "sh" else ():
            _parse(words, block.where, capsys)


def test_the_commands_of_the_readme_are_those_of_the_command_line(capsys):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = [line.strip() for line in text.splitlines() if line.startswith("    ")]
    found = commands("\n".join(line for line in lines if line.startswith(("rayseg ", "ray job "))))
    assert len(found) > 5
    for words in found:
        _parse(words, "README.md", capsys)


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=[*_ids, "README.md"])
def test_links_lead_to_files_and_headings_that_exist(page):
    for target in _LINK.findall(prose(page)):
        if target.startswith(("https://", "http://")):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), f"{page.name}: {target}"
        if page.is_relative_to(DOCS):
            assert path.is_relative_to(DOCS), f"{page.name}: {target} is not on the site"
        if anchor:
            assert anchor in anchors(path), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=_ids)
def test_files_and_tests_that_a_page_names_exist(page):
    for path, function in _PATH.findall(page.read_text(encoding="utf-8")):
        assert (ROOT / path).exists(), f"{page.name}: {path}"
        if function:
            assert f"def {function}(" in (ROOT / path).read_text(encoding="utf-8"), f"{page.name}: {path}::{function}"


def test_the_menu_lists_every_page_once():
    def pages(entry: object) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        values = entry.values() if isinstance(entry, dict) else entry
        return [page for value in values for page in pages(value)]  # type: ignore[union-attr]

    menu = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    assert sorted(pages(menu)) == sorted(_ids)


def _parse(words: list[str], where: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Parse one call as rayseg does. What is submitted is parsed as well."""
    from rayseg.cli.predict import with_command

    if words == ["--version"]:
        return
    try:
        args = _parser().parse_args(with_command(words))
        if words[0] == "submit":
            _parse(_without_flags_of_the_submission(args), where, capsys)
        elif words[0] == "await":
            _parse(args.arguments, where, capsys)
    except SystemExit as error:
        raise AssertionError(f"{where}: rayseg {' '.join(words)}: {capsys.readouterr().err}") from error
    if getattr(args, "config", None) and (ROOT / args.config).parent.name.endswith("_segmentation"):
        from rayseg.config.train import load_settings

        assert load_settings(ROOT / args.config, args.override), where


def _without_flags_of_the_submission(args) -> list[str]:
    import argparse

    from rayseg.cli import submit

    mixed = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    submit._add_flags(mixed, default=argparse.SUPPRESS)
    return [args.job, *mixed.parse_known_args(args.arguments)[1]]


def test_a_page_is_cut_into_its_blocks(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# One two\n```sh norun needs a moon\nrayseg x \\\n  y | cat\n```\n\n````text\n```\n````\n## Three, *four*\n")
    first, second = blocks(page)
    assert (first.line, first.language, first.words) == (3, "sh", ("norun", "needs", "a", "moon"))
    assert commands(first.text) == [["x", "y"]] and second.text == "```\n"
    assert anchors(page) == {"one-two", "three-four"}


@pytest.mark.parametrize(
    "line, words",
    [
        ("A=1 rayseg verify out # proof", ["verify", "out"]),
        ("python -m rayseg.cli verify out && ls", ["verify", "out"]),
        ("ray job submit --working-dir . -- python jobs/segment.py a b --model m", ["segment", "a", "b", "--model", "m"]),
        ("ls rayseg", None),
    ],
)
def test_calls_of_rayseg_are_found_in_shell_text(line, words):
    assert commands(line) == ([] if words is None else [words])


def test_every_page_is_reached_without_the_name_of_a_host_of_ours():
    for page in PAGES:
        assert not re.search(r"/home/|/tmp/|localhost:\d", page.read_text(encoding="utf-8")), page
    assert Path(ROOT / "docs/index.md").is_file()
