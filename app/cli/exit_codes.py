"""What the command line ends with; docs/cli.md describes each to its users."""

from enum import IntEnum


class ExitCode(IntEnum):
    """One for each way to end that a script may want to tell from the others."""

    DONE = 0
    REFUSED = 1
    USAGE = 2
    """Click's own, for options and arguments that are not understood."""
    JOB_FAILED = 3
    JOB_CANCELLED = 4
    UNREACHABLE = 5
    REJECTED = 6
