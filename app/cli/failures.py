"""Says what went wrong, and chooses what the command line ends with.

What exceptions come from is imported only when there is one: `eggs --help` needs neither a client nor a database.
"""

from importlib.util import find_spec

from app.cli.exit_codes import ExitCode
from app.cli.render import show_error


def show(error: Exception) -> ExitCode:
    """Shows an error that its user can do something about. Raises any other one again: it is a defect."""
    from pydantic import ValidationError
    from sqlalchemy.exc import SQLAlchemyError

    from eggs_client import ClientError
    from eggs_core.errors import EggsError, WorkerNotInstalled

    if isinstance(error, ModuleNotFoundError) and find_spec("torch") is None:
        error = WorkerNotInstalled()
    match error:
        case ClientError():
            show_error(error.title, error.detail)
            return _code(error)
        case EggsError():
            show_error(error.title, str(error))
        case ValidationError():
            details = (f"{'.'.join(map(str, item['loc']))}: {_plain(item['msg'])}" for item in error.errors())
            show_error("The request or the settings are not valid", "\n".join(details))
        case SQLAlchemyError():
            show_error(
                "The database cannot be used",
                f"{error.__class__.__name__}. Check EGGS_DATABASE_URL, and that it runs.",
            )
        case OSError():
            show_error("A file could not be read or written", str(error))
        case _:
            raise error
    return ExitCode.REFUSED


def _code(error: Exception) -> ExitCode:
    from eggs_client import JobCancelled, JobFailed, Unavailable, Unreachable

    match error:
        case JobFailed():
            return ExitCode.JOB_FAILED
        case JobCancelled():
            return ExitCode.JOB_CANCELLED
        case Unreachable() | Unavailable():
            return ExitCode.UNREACHABLE
    return ExitCode.REFUSED


def _plain(message: str) -> str:
    return message.removeprefix("Value error, ")
