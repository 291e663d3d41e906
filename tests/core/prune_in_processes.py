"""What torchrun starts for `test_distributed`: prunes a list of jobs, and says how each ended in this process."""

import json
import sys
from pathlib import Path

import torch

from eggs_core.distributed import joined
from eggs_core.errors import Cancelled, EggsError
from eggs_core.pipeline import prune
from eggs_core.progress import ProgressEvent
from eggs_core.spec import PruneSpec


def main(jobs: Path) -> None:
    """Each job is a spec, a folder to write, and the stage in which to cancel it; outcomes go beside `jobs`."""
    torch.set_num_threads(1)
    outcomes = []
    with joined() as group:
        for job in json.loads(jobs.read_text()):
            events: list[ProgressEvent] = []

            def on_progress(event: ProgressEvent, cancel_in: str | None = job["cancel_in"]) -> None:
                events.append(event)  # noqa: B023
                if event.stage == cancel_in:
                    raise Cancelled

            error = None
            try:
                spec = PruneSpec.model_validate(job["spec"])
                prune(spec, Path(job["out"]), cache_dir=jobs.parent, progress=on_progress, group=group)
            except (EggsError, Cancelled) as raised:
                error = [type(raised).__name__, str(raised)]
            outcomes.append({"error": error, "fractions": [event.fraction for event in events]})
        jobs.with_suffix(f".{group.rank}").write_text(json.dumps(outcomes))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
