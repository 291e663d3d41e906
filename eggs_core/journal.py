"""What a run has finished, kept beside its output, so that a run that was interrupted can be gone on with.

A step is recorded once its files are complete, with their checksums, and counts only while they are as they were:
a machine that loses its power may lose what it had just written.
"""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from eggs_core.checksums import read_checksums, sha256
from eggs_core.report import Report

FOLDER = ".journal"
REPORT = "report.json"
_RUN = "run.json"


class Journal:
    """The steps of the run `identity` that are finished, in the folder `out`; those of another are not to be had.

    `identity` is anything that JSON holds, and says all that the bytes of the output depend on.
    """

    def __init__(self, out: Path, identity: Any) -> None:
        self._out = out
        self._folder = out / FOLDER
        self._identity = json.dumps(identity, sort_keys=True)

    def interrupted(self) -> bool:
        """Whether the folder holds what an interrupted run of this identity left."""
        try:
            return (self._folder / _RUN).read_text() == self._identity
        except (FileNotFoundError, UnicodeDecodeError):
            return False

    def begin(self) -> None:
        """Starts to keep the journal, or goes on with it."""
        self._folder.mkdir(exist_ok=True)
        _write(self._folder / _RUN, self._identity)

    def record(self, step: str, value: Any, files: Iterable[Path] = ()) -> None:
        """Says that a step is finished: what it gave, for JSON, and the files in `out` that it wrote."""
        sums = {file.relative_to(self._out).as_posix(): sha256(file) for file in files}
        _write(self._folder / f"{step}.json", json.dumps({"value": value, "files": sums}))

    def recall(self, step: str) -> Any | None:
        """What a finished step gave; None for one that is not finished, or whose files are not as they were."""
        try:
            entry = json.loads((self._folder / f"{step}.json").read_text())
            if all(sha256(self._out / name) == digest for name, digest in entry["files"].items()):
                return entry["value"]
        except (FileNotFoundError, ValueError, TypeError, KeyError, AttributeError):  # or damaged
            pass
        return None

    def end(self) -> None:
        """Removes the journal; first what makes it one, as a kill may come in between."""
        (self._folder / _RUN).unlink()
        shutil.rmtree(self._folder)


def finished(out: Path) -> Report | None:
    """The report of a run that has ended in `out`, with every file as its checksum says; None for another."""
    try:
        sums = read_checksums(out)
        if (out / FOLDER / _RUN).exists() or any(sha256(out / name) != digest for name, digest in sums.items()):
            return None
        return Report.model_validate_json((out / REPORT).read_text())
    except (OSError, ValueError):
        return None


def _write(file: Path, text: str) -> None:
    """The file is there whole, or not at all."""
    partial = file.with_suffix(".partial")
    partial.write_text(text)
    partial.rename(file)
