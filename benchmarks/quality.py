"""Perplexity, time and memory of our methods and of llm-compressor's, on the same tokens in one run.

    python -m benchmarks.quality [--calibration SOURCE] [--evaluation SOURCE ...] [--samples 24] [--windows 32]
        [--length 1024] [--pattern 2:4] [--seeds 0 ...] [--methods METHOD ...] [--resume]

Our time is the pruning stage, with reading every block and writing it; llm-compressor's has neither. Rows are kept
as they come, so that an interrupted run goes on with `--resume`.
"""

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.comparison import Figures, Task, compare
from benchmarks.peers import NOTE, PEERS
from benchmarks.process import peak_resident
from eggs_core.pipeline import prune
from eggs_core.report import Report
from eggs_core.spec import PruneSpec
from eggs_core.text import fingerprint

# Each configuration is what it sets of a PruneSpec.
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "magnitude": {"method": "magnitude"},
    "wanda": {"method": "wanda"},
    "ria": {"method": "ria"},
    "sparsegpt": {"method": "sparsegpt"},
    "eggs fast": {"method": "eggs", "effort": "fast"},
    "eggs balanced": {"method": "eggs", "effort": "balanced"},
    "eggs best": {"method": "eggs", "effort": "best"},
}


def prune_here(configuration: dict[str, Any], task: Task, out: Path) -> Figures:
    """Prunes as the service does, without its evaluation."""
    spec = PruneSpec(
        model=str(task.model),
        pattern=task.pattern,
        calibration=task.calibration,
        evaluation=None,
        **configuration,
    )
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        report, peak = process.submit(_run, spec, out).result()
    assert report.calibration.fingerprint == fingerprint(task.tokens)
    return Figures(report.min_degree, report.expansion.min_input_degree, report.seconds["prune"], peak)


def _run(spec: PruneSpec, out: Path) -> tuple[Report, int]:
    with TemporaryDirectory() as cache:
        return prune(spec, out, cache_dir=Path(cache)), peak_resident()


if __name__ == "__main__":
    own = {name: partial(prune_here, configuration) for name, configuration in CONFIGURATIONS.items()}
    compare("quality", PEERS | own, __doc__, NOTE)
