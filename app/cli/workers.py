"""The command on workers, which asks a service over HTTP."""

from rich.markup import escape
from rich.table import Table

from app.cli import options
from app.cli.connection import connect
from app.cli.options import DEFAULT_URL
from app.cli.render import console, moment, size, write_json


def workers(key: options.Key, url: options.Url = DEFAULT_URL, as_json: options.Json = False) -> None:
    """List the workers of the installation; needs a key with the scope admin."""
    with connect(url, key) as client:
        found = list(client.workers.list())
    if as_json:
        write_json(found)
        return
    table = Table()
    for heading in ("Host", "Process", "State", "Job", "Computes with", "Memory", "Version", "Last seen"):
        table.add_column(heading, no_wrap=heading == "Job")
    for worker in found:
        table.add_row(
            escape(worker.hostname),
            str(worker.pid),
            worker.state.value,
            worker.job_id or "",
            escape(", ".join(worker.gpus)) or f"{worker.cpus} processors",
            size(worker.gpu_memory_bytes or worker.memory_bytes),
            worker.version,
            moment(worker.last_seen_at),
        )
    console.print(table)
