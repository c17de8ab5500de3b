"""The pages of docs/ as tests see them: fenced blocks with the words behind their language, and headings.

```sh run                a command that tests/docs runs; `run alone` starts its own Ray
```sh norun NEEDS ...    one that cannot run here, and why
```text output           lines the block before must print, in this order; `...` stands for anything
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = tuple(sorted(DOCS.rglob("*.md")))
_FENCE = re.compile(r"^(?P<fence>`{3,})(?P<language>\S*) ?(?P<words>.*)$")


@dataclass(frozen=True)
class Block:
    """A fenced block; `line` is that of its first line of text."""

    page: Path
    line: int
    language: str
    words: tuple[str, ...]
    text: str

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def runs(self) -> bool:
        return self.words[:1] == ("run",)


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, from top to bottom."""
    found, opened, start, lines = [], None, 0, list[str]()
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if opened is None:
            opened, start, lines = _FENCE.match(line), number + 1, []
        elif line.strip() == opened["fence"]:
            words = tuple(opened["words"].split())
            found.append(Block(page, start, opened["language"], words, "\n".join(lines) + "\n"))
            opened = None
        else:
            lines.append(line)
    assert opened is None, f"{page}: the block of line {start} never ends"
    return found


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^(`{3,})\S.*?^\1$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """What a link to this page may name behind `#`, as mkdocs makes it of the headings."""
    titles = re.findall(r"^#+ (.*)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title in titles}


def commands(text: str) -> list[list[str]]:
    """Calls of rayseg in a shell text, each as its arguments; jobs/NAME.py is `rayseg NAME`."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        words = words[next((i for i, word in enumerate(words) if not re.match(r"\w+=", word)), 0) :]
        if words[:3] == ["ray", "job", "submit"] and "--" in words:
            words = words[words.index("--") + 1 :]
        if words[:3] == ["python", "-m", "rayseg.cli"]:
            found.append(words[3:])
        elif words[:1] == ["rayseg"]:
            found.append(words[1:])
        elif words[:1] == ["python"] and re.fullmatch(r"jobs/\w+\.py", words[1]):
            found.append([Path(words[1]).stem, *words[2:]])
    return [
        words[: next((i for i, w in enumerate(words) if w in ("|", ">", ">>", "&&", "||", ";", "2>")), None)] for words in found
    ]
