"""Does something in a process of its own, and says what it took: for what must not take a machine's memory."""

import os
import resource
import signal
from collections.abc import Callable

import psutil

# Beyond what the process has; only so that a test which fails does not take the machine with it.
_MOST_BYTES = 6 << 30


def limited(work: Callable[[], object], seconds: int = 90, most: int = _MOST_BYTES) -> tuple[str, int]:
    """What came of it ("done", or the error with its class), and the memory it took at its peak, in bytes.

    Allocations beyond `most` bytes fail there, and in the processes it starts. Fails where it died or took longer.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        outcome = "done"
        resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + most,) * 2)
        signal.alarm(seconds)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            work()
        except BaseException as error:
            outcome = f"{type(error).__name__}: {error}"
        peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
        os.write(write, f"{peak} {outcome[:4096]}".encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        said = answer.read()
    _, status = os.waitpid(child, 0)
    assert status == 0, f"the process died, or took more than {seconds} seconds: {status}"
    peak, _, outcome = said.partition(" ")
    return outcome, int(peak)
