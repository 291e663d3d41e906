"""`eggs`: the command line."""

import sys

import typer
from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError

from app.cli import demo, jobs, keys, packed, prune, serve
from app.cli.client import ApiError
from app.cli.render import show_error
from eggs_core.errors import EggsError

app = typer.Typer(
    help="Pruning as a service for large language models.", no_args_is_help=True, pretty_exceptions_enable=False
)
app.command("serve")(serve.serve)
app.command("migrate")(serve.migrate)
app.add_typer(keys.app, name="keys")
app.command("prune")(prune.prune)
app.command("models")(prune.models)
app.command("submit")(jobs.submit)
app.command("list")(jobs.list_jobs)
app.command("status")(jobs.status)
app.command("watch")(jobs.watch)
app.command("cancel")(jobs.cancel)
app.command("report")(jobs.report)
app.command("download")(jobs.download)
app.command("demo")(demo.demo)
app.command("unpack")(packed.unpack)
app.command("generate")(packed.generate)
app.command("serve-model")(packed.serve_model)
app.add_typer(packed.bench, name="bench")


def main() -> None:
    """Runs the command line. Ends with 1 where something went wrong, with 2 where it was called wrongly."""
    try:
        app()
    except ApiError as error:
        show_error(error.title, error.detail)
    except EggsError as error:
        show_error(error.title, str(error))
    except ValidationError as error:
        details = (f"{'.'.join(map(str, item['loc']))}: {_plain(item)}" for item in error.errors())
        show_error("The request or the settings are not valid", "\n".join(details))
    except SQLAlchemyError as error:
        show_error(
            "The database cannot be used",
            f"{error.__class__.__name__}. Check EGGS_DATABASE_URL, and that it runs.",
        )
    except OSError as error:
        show_error("A file could not be read or written", str(error))
    sys.exit(1)


def _plain(item: object) -> str:
    assert isinstance(item, dict)
    return str(item["msg"]).removeprefix("Value error, ")
