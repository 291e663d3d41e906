"""`eggs demo`: a real language model through a real service, from submission to verified files."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from app.cli import options
from app.cli.connection import connect
from app.cli.render import console, progress_bar, report_tables, write_json
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
    as_json: options.Json = False,
) -> None:
    """Prune a small model through a service of its own. It is SmolLM2-135M at 2:4; writes demo-report.json."""

    def tell(text: str) -> None:
        if not as_json:
            console.print(text, highlight=False)

    settings = EmbeddedSettings(data_dir=data_dir, port=0)
    with _service(settings) as (url, key), connect(url, key) as client:
        tell(f"The service runs at {url}; its log is {data_dir / 'demo.log'}")
        job = client.jobs.submit(
            model=MODEL,
            name="demo",
            pattern="2:4",
            method="eggs",
            effort=effort.value,
            calibration={"samples": samples, "sequence_length": sequence_length},
            evaluation={"samples": evaluation_samples, "sequence_length": sequence_length},
        )
        tell(f"Submitted {job.id}: {MODEL}, 2:4, method eggs, effort {effort}")
        job.wait(progress=False if as_json else progress_bar("Job"))
        folder = data_dir / "downloads" / job.id
        files = job.download(folder, progress=False if as_json else progress_bar("Download"))
        tell(f"{len(files)} files, all verified, are in {folder}")
        report = Report.model_validate(job.report().model_dump(mode="json"))
    REPORT.write_bytes((folder / "report.json").read_bytes())
    if as_json:
        write_json(report)
        return
    console.print(report_tables(report))
    tell(f"The report is in {REPORT}.")


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
            [sys.executable, "-m", "app.cli", "serve", "--json"],
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
            address = _address(process.stdout.readline(), log)
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


def _address(line: str, log: Path) -> str:
    """The address in the first line of what the service says."""
    if not line:
        from eggs_client import ClientError

        raise ClientError("The service did not start", f"Its log says why: {log}")
    return str(json.loads(line)["url"])
