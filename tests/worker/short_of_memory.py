"""`worker.processes`, of which the second has little memory beyond what it starts with."""

import os
import resource
import sys
from pathlib import Path

import psutil

from eggs_core import pipeline  # noqa: F401 - to have it all loaded before the limit
from worker.processes import main

BYTES = 512 << 20

if __name__ == "__main__":
    if os.environ["RANK"] == "1":
        resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + BYTES,) * 2)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
