"""What `ray job submit -- python jobs/tune.py -c FILE -o Section.key=value ...` runs: `rayseg tune` on the cluster the job was
submitted to.

The exit status is 0 only when every trial has ended and one has a score. Submitting again goes on with the trials that are left.
"""

from __future__ import annotations

import sys

from rayseg.cli import main

if __name__ == "__main__":
    sys.exit(main(["tune", *sys.argv[1:]]))
