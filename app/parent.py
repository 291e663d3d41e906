"""Ties the life of a child process to its parent's, also where the parent is killed without a word.

The parent keeps the write end of a pipe and the child watches the read end: whatever ends the parent closes it.
`python -m app.parent MODULE` runs a module as such a child.
"""

import os
import runpy
import signal
import sys
import threading

ENVIRONMENT_VARIABLE = "EGGS_PARENT_FD"


def die_with_parent() -> None:
    """In the child: kills this process and its group once the parent is gone.

    Does nothing where the parent has given no pipe. The child must lead a process group of its own, as
    `subprocess.Popen(..., start_new_session=True)` sees to.
    """
    if (text := os.environ.pop(ENVIRONMENT_VARIABLE, None)) is None:
        return
    descriptor = int(text)

    def watch() -> None:
        os.read(descriptor, 1)  # returns when the write end is closed
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


if __name__ == "__main__":
    die_with_parent()
    runpy.run_module(sys.argv[1], run_name="__main__", alter_sys=True)
