"""`eggs demo`: a real language model through a real service, from submission to verified files."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from app.cli.connection import connect
from app.cli.render import console, progress_bar, report_tables
from app.settings import EmbeddedSettings, Settings
from eggs_core.report import Report
from eggs_core.spec import Effort

MODEL = "smollm2-135m-instruct"
REPORT = Path("demo-report.json")


def demo(
    data_dir: Annotated[Path, typer.Option(help="Folder for everything the demo keeps.")] = Path("eggs-data/demo"),
    samples: Annotated[int, typer.Option(min=1, help="Calibration windows.")] = 32,
    evaluation_samples: Annotated[int, typer.Option(min=1, help="Held-out windows.")] = 16,
    sequence_length: Annotated[int, typer.Option(min=8, help="Tokens in a window.")] = 1024,
    effort: Annotated[Effort, typer.Option(help="How much method eggs does.")] = Effort.BALANCED,
) -> None:
    """Prune SmolLM2-135M to 2:4 through a service started for the purpose; writes demo-report.json."""
    settings = EmbeddedSettings(data_dir=data_dir, port=0)
    with _service(settings) as (url, key), connect(url, key) as client:
        console.print(f"The service runs at {url}; its log is {data_dir / 'demo.log'}", highlight=False)
        job = client.jobs.submit(
            model=MODEL,
            name="demo",
            pattern="2:4",
            method="eggs",
            effort=effort.value,
            calibration={"samples": samples, "sequence_length": sequence_length},
            evaluation={"samples": evaluation_samples, "sequence_length": sequence_length},
        )
        console.print(f"Submitted {job.id}: {MODEL}, 2:4, method eggs, effort {effort}", highlight=False)
        job.wait(progress=progress_bar("Job"))
        folder = data_dir / "downloads" / job.id
        files = job.download(folder, progress=progress_bar("Download"))
        console.print(f"{len(files)} files, all verified, are in {folder}", highlight=False)
        report = Report.model_validate(job.report().model_dump(mode="json"))
    console.print(report_tables(report))
    REPORT.write_bytes((folder / "report.json").read_bytes())
    console.print(f"The report is in {REPORT}.", highlight=False)


@contextmanager
def _service(settings: Settings) -> Iterator[tuple[str, str]]:
    """Runs `eggs serve` on a free port, with a key of the demo's own; stops it and ends the key."""
    # Only now: the commands that talk to a service start faster without the database's libraries.
    from app.db import make_engine, make_sessions
    from app.keys import service as keys
    from app.server import prepare_database

    settings.data_dir.mkdir(parents=True, exist_ok=True)
    prepare_database(settings)
    engine = make_engine(settings.database_url)
    sessions = make_sessions(engine)
    with sessions.begin() as session:
        api_key, token = keys.create(session, name="demo")
    log = settings.data_dir / "demo.log"
    with (
        log.open("w", buffering=1) as output,
        subprocess.Popen(
            [sys.executable, "-m", "app.cli", "serve"],
            env=os.environ | settings.environment(),
            stdout=subprocess.PIPE,
            stderr=output,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        # A service whose output nobody reads would stop at its next line once the pipe is full.
        drain = threading.Thread(target=output.writelines, args=(process.stdout,))
        try:
            address = _address(process.stdout, log)
            drain.start()
            yield address, token
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()
            if drain.is_alive():
                drain.join()
            with sessions.begin() as session:
                keys.revoke(session, api_key.id)
            engine.dispose()


def _address(output: Iterable[str], log: Path) -> str:
    """The address that the service says it listens on."""
    for line in output:
        if match := re.search(r"The service is at (\S+)", line):
            return match[1]
    from eggs_client import ClientError

    raise ClientError("The service did not start", f"Its log says why: {log}")
