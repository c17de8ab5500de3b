"""What `ray job submit -- python jobs/train.py -c FILE -o Section.key=value ...` runs: `rayseg train` on the cluster the job
was submitted to.

The exit status is 0 only when the run is finished. Submitting again goes on from the last checkpoint.
"""

from __future__ import annotations

import sys

from rayseg.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
