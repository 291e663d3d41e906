"""Serves a model as OpenAI's clients ask, by the server that transformers has."""

from collections.abc import Callable
from pathlib import Path

from eggs_core.checkpoint import Checkpoint
from eggs_core.errors import ServingNotInstalled


def check_installed() -> None:
    """Raises `ServingNotInstalled` where transformers' server, or what it needs, is missing."""
    try:
        import transformers.cli.serve  # noqa: F401
        from transformers.utils.import_utils import is_serve_available
    except ImportError as error:
        raise ServingNotInstalled from error
    if not is_serve_available():
        raise ServingNotInstalled


def serve(folder: Path, host: str, port: int, listening: Callable[[str], None]) -> None:
    """Serves the model in `folder`, packed or not, until the process is told to stop.

    Calls `listening` with the address for clients once requests can be sent there. Raises `BrokenCheckpoint` where
    the weights or their index cannot be read.
    """
    Checkpoint(folder)  # of what is damaged transformers says nothing that helps
    from transformers.cli.serve import Serve

    class _Serve(Serve):
        def start_server(self) -> None:
            """Not in a thread, and on a port that listens before the address is told."""
            listener = self.server.config.bind_socket()
            listener.listen()
            host, port, *_ = listener.getsockname()
            listening(f"http://{host}:{port}/v1")
            self.server.run([listener])

    _Serve(force_model=str(folder.absolute()), host=host, port=port, non_blocking=True)
