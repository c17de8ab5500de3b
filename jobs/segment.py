"""What `ray job submit -- python jobs/segment.py SRC OUT --model M` runs: `rayseg segment` on the cluster the job was
submitted to.

The exit status is 0 only when the ledger is complete and failures are within --max-failures. Submitting again resumes.
"""

from __future__ import annotations

import sys

from rayseg.cli import main

if __name__ == "__main__":
    sys.exit(main(["segment", *sys.argv[1:]]))
