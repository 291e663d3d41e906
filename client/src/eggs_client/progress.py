"""A progress bar, by rich: `pip install eggs-client[progress]`."""

from types import TracebackType
from typing import Self

try:
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.table import Column
except ImportError as error:
    raise ImportError("Progress bars need rich: pip install 'eggs-client[progress]'") from error


class ProgressBar:
    """A progress bar with the time left; where the output is no terminal, a line for each step with it instead."""

    def __init__(self, title: str, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._live = self._console.is_terminal
        self._said = ""
        self._progress = Progress(
            TextColumn("[bold]{task.fields[title]}"),
            BarColumn(bar_width=16),
            TaskProgressColumn(),
            # The one column that gives way on a narrow terminal: the times must be readable.
            TextColumn("{task.fields[message]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            expand=True,
            speed_estimate_period=600,
            disable=not self._live,
        )
        self._task = self._progress.add_task(title, total=1.0, title=escape(title), message="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def update(self, fraction: float, message: str) -> None:
        """Moves the bar to `fraction` (0 to 1) and says what is being done."""
        self._progress.update(self._task, completed=fraction, message=escape(message))
        if not self._live and message != self._said:
            left = self._progress.tasks[0].time_remaining
            time_left = f", about {left:.0f} s left" if left else ""
            self._console.print(f"{fraction:6.1%}  {message}{time_left}", highlight=False, markup=False)
        self._said = message
