"""A program of Paddle's as an engine is given it: the file of the model directory, or a changed copy while it is read."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rayseg.predict.convert.lean import without_masks
from rayseg.predict.convert.least_score import raise_in_paddle, suppresses
from rayseg.predict.model_dir import PROGRAM_FILES


@contextmanager
def paddle_program(path: Path, *, least_score: float = 0.0, lean: bool = False) -> Iterator[Path]:
    """A program as a file that is there inside the block.

    Args:
        path: of the program; one in the older form is given as it is.
        least_score: objects below it may be left out, see least_score.py.
        lean: masks may be left out, see lean.py.
    """
    raises = least_score > 0 and path.name == PROGRAM_FILES[0] and suppresses(path)
    if not raises and not (lean and path.name == PROGRAM_FILES[0]):
        yield path
        return
    document = json.loads(path.read_bytes())
    ended = without_masks(document) if lean else None
    if not raises and ended is None:
        yield path
        return
    document = ended or document
    if raises:
        raise_in_paddle(document, least_score)
    with tempfile.TemporaryDirectory(prefix="rayseg-program-") as folder:
        changed = Path(folder, path.name)
        changed.write_text(json.dumps(document), encoding="utf-8")
        yield changed
