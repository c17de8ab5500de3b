"""`python -m rayseg.cli` is `rayseg`."""

from __future__ import annotations

import sys

from rayseg.cli import main

if __name__ == "__main__":
    sys.exit(main())
