"""The exception tree: what its drawing says, and that each kind arrives whole in another process."""

from __future__ import annotations

import inspect
import pickle
import re

import pytest

from rayseg import errors
from rayseg.errors import RaysegError

CLASSES = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if kind.__module__ == errors.__name__]


def drawn_tree(drawing: str) -> dict[str, str | None]:
    """Class -> its parent, from the lines of the drawing; depth is where the name starts."""
    out: dict[str, str | None] = {}
    above: list[tuple[int, str]] = []
    for line in drawing.splitlines():
        found = re.match(r"^(    [│├└─ ]*)([A-Z]\w+)(\s{2,}|$)", line)
        if found:
            depth, name = len(found[1]), found[2]
            above = [pair for pair in above if pair[0] < depth]
            out[name] = above[-1][1] if above else None
            above.append((depth, name))
    return out


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_error_survives_pickling(kind, protocol):
    before = kind("a.png: width 0. The header is damaged; fetch the file again.")
    before.__cause__ = ValueError("lost on the way, which is why the message says it all")
    after = pickle.loads(pickle.dumps(before, protocol))
    assert type(after) is kind and str(after) == str(before) and after.args == before.args


def test_the_drawing_shows_exactly_the_classes_and_their_parents():
    actual = {kind.__name__: None if kind is RaysegError else kind.__base__.__name__ for kind in CLASSES}
    assert drawn_tree(errors.__doc__) == actual
    assert len(actual) > 5


def test_a_drawing_that_forgets_a_class_or_hangs_it_elsewhere_would_be_noticed():
    drawing = errors.__doc__
    assert "JobMismatch" not in drawn_tree(re.sub(r"(?m)^.*JobMismatch.*\n", "", drawing))
    assert drawn_tree(drawing)["JobMismatch"] == "OutputError"
    assert drawn_tree(drawing.replace("│   ├── WeightsError  ", "├── WeightsError  "))["WeightsError"] == "RaysegError"


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_is_a_rayseg_error_with_a_sentence_about_it(kind):
    assert issubclass(kind, RaysegError)
    assert inspect.getdoc(kind).endswith(".")


def test_an_error_of_python_is_not_caught_by_ours():
    assert not issubclass(ValueError, RaysegError) and not issubclass(RaysegError, (ValueError, OSError))
