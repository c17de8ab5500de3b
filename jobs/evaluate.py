"""What `ray job submit -- python jobs/evaluate.py -c FILE -o Section.key=value ...` runs: `rayseg evaluate` on the cluster the
job was submitted to, the validation images shared out over it.
"""

from __future__ import annotations

import sys

from rayseg.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
