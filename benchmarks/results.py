"""Where a benchmark leaves its figures: `benchmarks/results/NAME.json`, and a table in `NAME.md`."""

import json
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from eggs_core.kernels import Level, best_level

RESULTS = Path(__file__).parent / "results"


def keep(
    name: str,
    command: str,
    rows: list[dict[str, Any]],
    summary: str,
    means: list[dict[str, Any]] | None = None,
) -> None:
    """Writes the figures with device, versions and date, and prints the tables.

    The columns are the keys of the first row. `means` is a second table, of figures over several rows.
    """
    versions = {"python": platform.python_version()} | {
        library: version(library) for library in ("torch", "transformers")
    }
    setting = {
        "date": datetime.now(UTC).date().isoformat(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else _processor(),
        "kernels": _level(),
        "threads": torch.get_num_threads(),
        "versions": versions,
    }
    RESULTS.mkdir(exist_ok=True)
    figures = {"command": command, "setting": setting, "summary": summary, "rows": rows}
    if means is not None:
        figures["means"] = means
    (RESULTS / f"{name}.json").write_text(json.dumps(figures, indent=2) + "\n")
    lines = [
        f"# {name}",
        "",
        f"`{command}`",
        "",
        f"{setting['date']}, {setting['device']}, kernels for {setting['kernels']}, {setting['threads']} threads, "
        + ", ".join(f"{library} {number}" for library, number in versions.items()),
        "",
        *_table(rows),
        "",
        *([] if means is None else [*_table(means), ""]),
        summary,
    ]
    (RESULTS / f"{name}.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def of_processor(name: str) -> str:
    """The name of a result that depends on what the kernels use of the processor, of which each has its own."""
    return name if best_level() is Level.AVX512_BF16 else f"{name}-{_level().lower()}"


def short(source: str) -> str:
    """A text's source as a command line should show it: a file by its name alone."""
    return f"file:{Path(source).name}" if source.startswith("file:") else source


def _table(rows: list[dict[str, Any]]) -> list[str]:
    columns = list(rows[0])
    return [
        "| " + " | ".join(columns) + " |",
        "|" + "---|" * len(columns),
        *("| " + " | ".join(_cell(row[column]) for column in columns) + " |" for row in rows),
    ]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _level() -> str:
    level = best_level()
    return "none" if level is None else level.name


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return f"{line.split(':', 1)[1].strip()} ({platform.machine()})"
    return platform.machine()
