"""Serves a model as OpenAI's clients ask, by the server that transformers has."""

from pathlib import Path

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


def serve(folder: Path, host: str, port: int) -> None:
    """Serves the model in `folder`, packed or not, until the process is told to stop."""
    from transformers.cli.serve import Serve

    Serve(force_model=str(folder.absolute()), host=host, port=port)
