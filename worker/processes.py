"""Prunes in as many processes as the settings say: in this one, or in those that torchrun starts for it.

The first of several writes what happens to its standard output, a JSON document a line; another one what ended it,
which the first only sees as its end. All of them read their standard input, on which nothing comes: when this
process closes it, or dies, they end.
"""

import json
import os
import select
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

from app import logs
from app.files.layout import uploads
from app.s3_sources import fetched
from app.settings import Settings
from eggs_core.errors import EggsError
from eggs_core.progress import ProgressCallback, ProgressEvent
from eggs_core.report import Report
from eggs_core.spec import PruneSpec

_CHECK_SECONDS = 1.0


def prune(
    spec: PruneSpec, out: Path, settings: Settings, progress: ProgressCallback, check: Callable[[], None]
) -> Report:
    """`eggs_core.pipeline.prune` by these settings. What `check` raises, asked now and then, stops the run too."""
    if settings.processes == 1:
        return _prune(spec, out, settings, progress=progress)
    with TemporaryDirectory() as folder:
        request = Path(folder) / "spec.json"
        request.write_text(spec.model_dump_json())
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc-per-node", str(settings.processes), "-m", __name__, str(request), str(out)]
        threads = max(1, (os.cpu_count() or 1) // settings.processes)
        environment = {"OMP_NUM_THREADS": str(threads)} | os.environ | settings.environment()
        with subprocess.Popen(  # noqa: S603 - this very interpreter and module
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,  # what stops the worker's group of processes, they hear from this one
        ) as torchrun:
            assert torchrun.stdin is not None
            assert torchrun.stdout is not None
            try:
                return _follow(torchrun.stdout, progress, check)
            except BaseException:
                torchrun.stdin.close()
                torchrun.terminate()
                raise


def _follow(output: IO[bytes], progress: ProgressCallback, check: Callable[[], None]) -> Report:
    """Passes on what the processes say until they have ended. Returns their report, or raises what they did."""
    kind: str = ""
    value: Any = None
    for line in _lines(output.fileno(), check):
        ((said, what),) = json.loads(line).items()
        if said == "progress":
            progress(ProgressEvent(**what))
        elif not kind:  # what follows on an error comes of it
            kind, value = said, what
    if kind == "report":
        return Report.model_validate(value)
    if kind == "error":
        raise next(known for known in EggsError.__subclasses__() if known.code == value["code"])(value["message"])
    if kind == "os_error":
        raise OSError(value, os.strerror(value))
    raise RuntimeError("The processes of a job ended without a report; the log has what they said.")


def _lines(file: int, check: Callable[[], None]) -> Iterator[bytes]:
    """The lines of a pipe as they come, with a `check` before each and while there are none."""
    rest = b""
    while True:
        check()
        if not select.select([file], [], [], _CHECK_SECONDS)[0]:
            continue
        if not (read := os.read(file, 1 << 16)):
            return
        *lines, rest = (rest + read).split(b"\n")
        yield from lines


def _prune(spec: PruneSpec, out: Path, settings: Settings, **how: Any) -> Report:
    # Imported here: a process that finds nothing to claim should not load torch.
    from transformers.utils import logging as transformers_logging

    from eggs_core import pipeline

    transformers_logging.disable_default_handler()  # its lines go where all others go
    transformers_logging.enable_propagation()
    return pipeline.prune(
        spec,
        out,
        cache_dir=settings.cache_dir,
        model_roots=settings.model_roots,
        text_roots=settings.text_roots,
        task_roots=settings.task_roots,
        uploads=uploads(settings, spec) | fetched(settings, spec),
        allow_hub=settings.allow_hub,
        disk_reserve_bytes=settings.disk_reserve_bytes,
        **how,
    )


def main(request: Path, out: Path) -> None:
    """One of the processes."""
    threading.Thread(target=_end_with_the_worker, daemon=True).start()
    settings = Settings()
    logs.setup(settings.log_format)
    first = os.environ["RANK"] == "0"
    lines = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints belongs into the log

    def say(kind: str, value: Any) -> None:
        if first or kind in ("error", "os_error"):
            lines.write(json.dumps({kind: value}) + "\n")

    from eggs_core.distributed import joined

    spec = PruneSpec.model_validate_json(request.read_text())
    try:
        with joined() as group:
            report = _prune(
                spec, out, settings, progress=lambda event: say("progress", asdict(event)), group=group
            )
            say("report", report.model_dump(mode="json"))
    except EggsError as error:
        say("error", {"code": error.code, "message": str(error)})
    except OSError as error:
        if error.errno is None:
            raise
        say("os_error", error.errno)
        raise


def _end_with_the_worker() -> None:
    os.read(0, 1)
    os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
