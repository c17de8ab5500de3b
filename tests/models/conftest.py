"""What tests of several families need."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def reference(shared_dir: Path) -> ModuleType:
    """The module beside the reference numbers that fills weights, makes images and compares traces."""
    sys.path.insert(0, str(shared_dir / "zoo"))
    try:
        import compare
    finally:
        sys.path.pop(0)
    return compare
