"""The command on workers, which asks a service over HTTP."""

from app.cli import options
from app.cli.connection import connect
from app.cli.options import DEFAULT_URL
from app.cli.render import age, console, listing, plain, size, write_json


def workers(key: options.Key, url: options.Url = DEFAULT_URL, as_json: options.Json = False) -> None:
    """List the workers of the installation. Needs a key with the scope admin."""
    with connect(url, key) as client:
        found = list(client.workers.list())
    if as_json:
        write_json(found)
        return
    headings = ("Host", "Process", "State", "Job", "Computes with", "Memory", "Version", "Last seen")
    table = listing(*headings, whole=("Process", "State", "Job"))
    for worker in found:
        table.add_row(
            plain(worker.hostname),
            str(worker.pid),
            worker.state.value,
            worker.job_id or "",
            plain(", ".join(worker.gpus)) or f"{worker.cpus} processors",
            size(worker.gpu_memory_bytes or worker.memory_bytes),
            worker.version,
            f"{age(worker.last_seen_at)} ago" if worker.last_seen_at else "",
        )
    console.print(table)
