"""The GPU's kernels in Triton's interpreter, which must be chosen before Triton is imported."""

import os
import subprocess
import sys


def test_the_triton_kernels() -> None:
    patterns = ["2:4", "4:8", "1:4", "3:5", "7:24", "1:32", "4:4"]
    run = subprocess.run(
        [sys.executable, "-m", "tests.core.triton_kernels", *patterns],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert "all are right" in run.stdout
