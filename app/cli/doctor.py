"""`eggs doctor`: what an installation needs to work, looked at from here."""

import hashlib
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Literal

import typer
from pydantic import ValidationError
from rich.table import Table

from app.cli import options
from app.cli.exit_codes import ExitCode
from app.cli.render import console, plain, size, write_json
from app.settings import Settings, get_settings

State = Literal["ok", "warn", "fail"]

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@dataclass(frozen=True, slots=True)
class Check:
    """One line: what was looked at, what was found, and what to do about it."""

    name: str
    state: State
    found: str
    advice: str = ""


def doctor(as_json: options.Json = False) -> None:
    """Check the installation, and say what to do.

    Looks at its database, broker and store, and at what jobs run on.
    """
    checks = list(_checks())
    if as_json:
        write_json([asdict(check) for check in checks])
    else:
        table = Table(show_header=False)
        table.add_column(no_wrap=True)
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for check in checks:
            text = check.found + (f"\n{check.advice}" if check.advice else "")
            table.add_row(f"[{_COLOURS[check.state]}]{check.state}[/]", check.name, plain(text))
        console.print(table)
    if any(check.state == "fail" for check in checks):
        raise typer.Exit(ExitCode.REFUSED)


def _checks() -> Iterator[Check]:
    yield _installation()
    yield _gpu()
    yield _kernel()
    try:
        settings = get_settings()
    except ValidationError as error:
        wrong = ", ".join(f"EGGS_{item['loc'][0]}".upper() for item in error.errors())
        yield Check("settings", "fail", f"Not valid: {wrong}.", "docs/settings.md says what each may be.")
        return
    for check in (_data_folder, _database, _broker, _store, _secret_key):
        yield check(settings)


def _installation() -> Check:
    from packaging.requirements import Requirement

    on = f"Python {platform.python_version()} on {platform.machine()}"
    try:
        found, requirements = f"eggs {metadata.version('eggs')}, {on}", metadata.requires("eggs") or []
    except metadata.PackageNotFoundError:
        return Check(
            "installation", "warn", f"eggs runs from its source, {on}.", "Install it with `make install`."
        )
    wrong = []
    for text in requirements:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} {version} is not {requirement.specifier}")
    if wrong:
        return Check("installation", "fail", f"{found}: {'; '.join(wrong)}.", "Install eggs anew with pip.")
    return Check("installation", "ok", f"{found}.")


def _gpu() -> Check:
    if util.find_spec("torch") is None:
        return Check(
            "GPU",
            "warn",
            "torch is not installed: this machine serves the API, and works on no job.",
            "For a worker: pip install 'eggs[worker]'.",
        )
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        free = sum(torch.cuda.mem_get_info(index)[0] for index in range(len(names)))
        return Check("GPU", "ok", f"torch {torch.__version__} sees {', '.join(names)}, with {size(free)} free.")
    advice = "That is enough for small models. For a GPU, install its driver and a build of torch for it."
    if Path("/dev/nvidiactl").exists():
        advice = "There is an NVIDIA driver: install a build of torch for CUDA that it supports."
    return Check("GPU", "warn", f"torch {torch.__version__} sees none: jobs run on the CPU.", advice)


def _kernel() -> Check:
    if util.find_spec("torch") is None:
        return Check("kernel", "warn", "Not used without torch.")
    from eggs_core import kernels

    if (level := kernels.best_level()) is None:
        return Check(
            "kernel",
            "warn",
            "The kernels for packed models were not compiled: torch computes instead, and more slowly.",
            "Install a C compiler, such as gcc, and install eggs anew.",
        )
    return Check("kernel", "ok", f"Compiled; this processor takes level {level.name.lower()}.")


def _data_folder(settings: Settings) -> Check:
    folder = settings.data_dir
    if not folder.is_dir():
        return Check(
            "data folder",
            "warn",
            f"{folder} is not there yet.",
            "`eggs serve` makes it; set EGGS_DATA_DIR if it should lie elsewhere.",
        )
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        advice = "Give this user the right to write there, or set EGGS_DATA_DIR to another folder."
        return Check("data folder", "fail", f"{folder} cannot be written to: {error.strerror}.", advice)
    free = shutil.disk_usage(folder).free
    if free < settings.disk_reserve_bytes:
        return Check(
            "data folder",
            "fail",
            f"{folder} has {size(free)} free, and jobs leave {size(settings.disk_reserve_bytes)}.",
            "Make room, or jobs will wait for it.",
        )
    return Check("data folder", "ok", f"{folder}, with {size(free)} free.")


def _database(settings: Settings) -> Check:
    from sqlalchemy import make_url
    from sqlalchemy.exc import SQLAlchemyError

    from app.db import make_engine
    from app.migrate import is_current

    try:
        url = make_url(settings.database_url)
        shown = url.render_as_string(hide_password=True)
        if url.get_backend_name() == "sqlite" and not os.path.exists(url.database or ""):
            return Check("database", "warn", f"{shown} is not there yet.", "`eggs serve` makes it.")
        engine = make_engine(settings.database_url)
        try:
            with engine.connect() as connection:
                current = is_current(connection)
        finally:
            engine.dispose()
    except SQLAlchemyError as error:
        return Check(
            "database",
            "fail",
            f"It does not answer: {type(error).__name__}.",
            "Start it, and see that EGGS_DATABASE_URL names it, with a user and password that it knows.",
        )
    if not current:
        return Check("database", "fail", f"The schema of {shown} is not up to date.", "Run `eggs migrate`.")
    return Check("database", "ok", f"{shown} answers, and its schema is up to date.")


def _broker(settings: Settings) -> Check:
    from kombu.utils.url import maybe_sanitize_url

    from app.queue import make_celery, waiting_messages

    if settings.broker_url.startswith("filesystem:") and not settings.data_dir.is_dir():
        return Check("broker", "warn", "The queue of files is not there yet.", "`eggs serve` makes it.")
    advice = "Start it, and see that EGGS_BROKER_URL names it. Jobs are accepted meanwhile, and start later."
    try:
        shown = maybe_sanitize_url(settings.broker_url)
        waiting = waiting_messages(make_celery(settings))
    except (ValueError, KeyError, ImportError):  # kombu can make nothing of it
        return Check("broker", "fail", "EGGS_BROKER_URL is no address of a broker.", advice)
    if waiting is None:
        return Check("broker", "fail", f"{shown} does not answer.", advice)
    return Check("broker", "ok", f"{shown} answers; {waiting} messages wait.")


@dataclass(frozen=True, slots=True)
class _Probe:
    name: str
    bytes: int
    sha256: str
    media_type: str = "text/plain"


def _store(settings: Settings) -> Check:
    from app.artifacts.store import open_store

    if settings.artifact_store_url is None and not settings.data_dir.is_dir():
        return Check("store", "warn", "The folder for results is not there yet.", "`eggs serve` makes it.")
    shown = settings.artifact_store_url or str(settings.artifacts_dir)
    content = os.urandom(16).hex().encode()
    probe = _Probe("probe.txt", len(content), hashlib.sha256(content).hexdigest())
    location = f".doctor-{content.decode()}"
    try:
        store = open_store(settings)
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, probe.name).write_bytes(content)
            try:
                store.put(Path(folder), location, [probe], lambda: None)
            finally:
                store.remove(location)
    except Exception as error:  # of whatever kind: a store's client has many
        advice = "See that EGGS_ARTIFACT_STORE_URL is right, and that this user may write and delete there."
        return Check("store", "fail", f"{shown} cannot be written to: {type(error).__name__}.", advice)
    return Check("store", "ok", f"{shown} takes files, and gives them up.")


def _secret_key(settings: Settings) -> Check:
    if settings.secret_key is not None:
        return Check("secret key", "ok", "EGGS_SECRET_KEY is set.")
    path = settings.data_dir / "secret.key"
    if not path.exists():
        advice = "Where the API and its workers share no data folder, set EGGS_SECRET_KEY for all of them."
        return Check("secret key", "ok", "None is needed yet; it is made at first need.", advice)
    from app.secrets import parse_keys

    try:
        parse_keys(path.read_text())
    except (OSError, ValueError):
        advice = "Put it back from your backup: without it, secrets that are stored have to be set anew."
        return Check("secret key", "fail", f"{path} cannot be read as a key.", advice)
    if path.stat().st_mode & 0o077:
        return Check("secret key", "warn", f"{path} can be read by others.", f"Run: chmod 600 {path}")
    return Check("secret key", "ok", f"{path} has it; keep it with your backups of the database.")
