"""The command line against a real server: what it prints, what it refuses, and that it carries on."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy.orm import Session, sessionmaker
from typer.main import get_command

from app.cli import demo
from app.cli.connection import connect
from app.cli.exit_codes import ExitCode
from app.cli.main import app
from app.examples import REPORT
from app.jobs import leases, sse
from app.jobs.leases import Lease, NewArtifact
from app.jobs.models import JobState
from app.keys import service as keys_service
from app.keys.scopes import Scope
from app.secrets import Secrets
from app.settings import EmbeddedSettings, Settings
from eggs_core.report import Report
from eggs_core.spec import Effort
from tests.app.build import make_job, read_job
from tests.app.conftest import RunningServer
from tests.app.receiver import Receiver
from tests.app.test_jobs_api import finish
from tests.app.test_leases import must_claim
from tests.app.test_workers import make_worker
from tests.conftest import wait_for
from tests.tiny_models import MakeModel

Sessions = sessionmaker[Session]
Eggs = Callable[..., subprocess.CompletedProcess[str]]
ACCEPT = {"Accept": sse.MEDIA_TYPE}
MODEL = "smollm2-135m-instruct"


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """SQLite alone: over HTTP the kind of database makes no difference."""
    return sqlite_url


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Settings under which webhooks may be sent to a test's own receiver."""
    settings.webhook_allow_private = True
    return settings


@pytest.fixture
def admin_key(sessions: Sessions) -> str:
    with sessions.begin() as session:
        return keys_service.create(session, name="admin", scopes=list(Scope))[1]


@pytest.fixture
def eggs(server: RunningServer, tmp_path: Path) -> Eggs:
    """Runs `eggs` with these arguments, as a user of the server would."""
    environment = os.environ | {
        "EGGS_URL": server.url,
        "EGGS_API_KEY": server.key,
        "EGGS_DATA_DIR": str(tmp_path / "client"),
    }

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", "from app.cli.main import main; main()", *arguments],
            env=environment | variables,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


def publish(sessions: Sessions, settings: Settings, lease: Lease, files: dict[str, bytes]) -> None:
    """Ends the job with these files, and a report without a verdict."""
    report = REPORT | {"acceptance": None}
    folder = settings.artifacts_dir / lease.job_id
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    artifacts = [
        NewArtifact(name, len(content), hashlib.sha256(content).hexdigest()) for name, content in files.items()
    ]
    with sessions.begin() as session:
        leases.succeed(session, lease, report=report, artifacts=artifacts, artifacts_dir=lease.job_id)


def refused(result: subprocess.CompletedProcess[str], *texts: str, code: ExitCode = ExitCode.REFUSED) -> None:
    assert result.returncode == code, result.stdout + result.stderr
    for text in texts:
        assert text in result.stderr
    assert "Traceback" not in result.stderr


def test_from_submission_to_files(eggs: Eggs, sessions: Sessions, settings: Settings, tmp_path: Path) -> None:
    options = ["--evaluation", "pydocs", "--evaluation", "file:a.txt", "--generations", "1", "--seeds", "2"]
    options += ["--task", "file:quiz.yaml", "--task-limit", "9", "--compare", "ria", "--compare", "eggs:fast"]
    options += ["--metadata", "team=research", "--metadata", "a=b=c", "--priority", "-5", "--text-field", "body"]
    options += ["--accept-kl-divergence", "0.5", "--accept-top1-agreement", "0.9"]
    options += ["--sequence-length", "64", "--evaluation-sequence-length", "32", "--evaluation-text-field", "t"]
    (settings.text_roots[0] / "a.txt").write_text("A text.")
    settings.task_roots[0].mkdir()
    (settings.task_roots[0] / "quiz.yaml").write_text("task: quiz")
    submitted = eggs("submit", MODEL, "--pattern", "4:8", "--name", "mine", "--calibration-samples", "3", *options)
    assert submitted.returncode == 0, submitted.stderr
    job_id = submitted.stdout.strip()
    job = read_job(sessions, job_id)
    spec = job.spec
    assert (job.metadata_, job.priority) == ({"team": "research", "a": "b=c"}, -5)
    assert spec["accept_if"] == {"perplexity_ratio": None, "kl_divergence": 0.5, "top1_agreement": 0.9}
    assert (spec["calibration"]["sequence_length"], spec["calibration"]["text_field"]) == (64, "body")
    assert (spec["pattern"], spec["calibration"]["samples"], spec["calibration"]["seed"]) == ("4:8", 3, 0)

    evaluation = spec["evaluation"]
    assert (evaluation["sequence_length"], evaluation["text_field"]) == (32, "t")
    assert (evaluation["sources"], evaluation["generations"]) == (["pydocs", "file:a.txt"], 1)
    assert (evaluation["tasks"], evaluation["task_limit"], spec["seeds"]) == (["file:quiz.yaml"], 9, 2)
    assert spec["compare"] == [{"method": "ria", "effort": None}, {"method": "eggs", "effort": "fast"}]

    listed = eggs("list")
    assert job_id in listed.stdout
    assert "mine" in listed.stdout
    status = eggs("status", job_id).stdout
    for fact in (r"State +│ queued", r"Tags +│ team=research", r"Priority +│ -5", r"Created +│ [-\d]+ [:\d]+ UTC"):
        assert re.search(fact, status)
    refused(eggs("report", job_id), "The job has no report yet", "Ask again when")
    refused(eggs("download", job_id, "--out", str(tmp_path / "out")), "The job has no files", "It is queued")

    files = {"model.safetensors": os.urandom(3_000_000), "sub/config.json": b"{}", "empty": b""}
    publish(sessions, settings, must_claim(sessions, job_id), files)
    shown = eggs("report", job_id).stdout
    for text in (
        "20.40",
        "118.90 to 142.50",
        "1.8700",
        "131.40 ± 1.90",
        "eggs:balanced, the job's own",
        "151.30",
        "0.0817",
        "0.3180 ± 0.0046",
        "45.0%",
        "50.0%",
        "q_proj",
        "101.2 s",
        "Input channels cut off",
    ):
        assert text in shown
    assert '"schema_version": 2' in eggs("report", job_id, "--json").stdout

    out = tmp_path / "out"
    downloaded = eggs("download", job_id, "--out", str(out))
    assert downloaded.returncode == 0, downloaded.stderr
    assert {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()} == files


def test_lists_can_be_read_on_a_narrow_terminal_and_in_a_pipe(eggs: Eggs, sessions: Sessions) -> None:
    job_id = make_job(sessions, name="nightly run of the team", method="ria")
    sweep_id = eggs("sweeps", "submit", MODEL, "--vary", "method=ria,wanda", "--name", "wide").stdout.strip()
    assert "is new. A service that has another one" in eggs("keys", "list").stderr
    assert eggs("keys", "create", "--name", "laptop", "--expires-in-days", "9.5").stderr == ""
    whole = {
        "list": rf"{job_id} queued +2:4 ria +\d+ s +{MODEL} +nightly run of the team",
        "sweeps list": rf"{sweep_id} queued +\d+ s +1 queued +{MODEL} +wide",
        "keys list": r"key_\w{26} \d+ s +in 9 d +laptop +default +jobs:read jobs:write",
    }
    for command, line in whole.items():
        assert re.search(line, eggs(*command.split()).stdout)
        narrow = eggs(*command.split(), COLUMNS="80", TTY_COMPATIBLE="1", NO_COLOR="1", TERM="dumb").stdout
        assert re.search(" +".join(line.split(" +")[:3]), narrow)
        assert max(map(len, narrow.splitlines())) <= 80


def test_what_others_have_written_is_shown_and_not_obeyed(eggs: Eggs, sessions: Sessions) -> None:
    job_id = make_job(sessions, name="a\x1b]0;b\x07\x9b31m[red]c", metadata={"k\x1b[2J": "v"})
    for shown in (eggs("list"), eggs("status", job_id), eggs("compare", job_id, job_id)):
        assert "a]0;b31m[red]c" in shown.stdout
        assert "\x1b" not in shown.stdout
    assert "k[2J=v" in eggs("status", job_id).stdout


def test_what_a_terminal_has_no_letters_for_is_replaced(eggs: Eggs, sessions: Sessions) -> None:
    job_id = make_job(sessions, name="größer \N{EGG}")
    listed = eggs("list", PYTHONIOENCODING="ascii")
    assert (listed.returncode, listed.stderr) == (0, "")
    assert job_id in listed.stdout
    assert "gr??er ?" in listed.stdout


def test_watch_follows_a_job_to_its_end(eggs: Eggs, sessions: Sessions, settings: Settings) -> None:
    job_id = make_job(sessions)
    with ThreadPoolExecutor() as pool:
        watching = pool.submit(eggs, "watch", job_id)
        lease = must_claim(sessions, job_id)
        for block in (1, 2):
            with sessions.begin() as session:
                leases.record_progress(session, lease, progress=block / 3, stage="prune", message=f"Block {block}")
        publish(sessions, settings, lease, {})
        result = watching.result()
    assert result.returncode == 0, result.stderr
    assert "Block 1" in result.stdout
    assert re.search(r"66\.7%\s+Block 2", result.stdout)
    assert "100.0%" in result.stdout


@pytest.mark.parametrize("options", [(), ("--json",)], ids=["tables", "json"])
def test_waiting_for_a_job_that_fails(eggs: Eggs, sessions: Sessions, options: Sequence[str]) -> None:
    """Its id is shown all the same."""
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(eggs, "submit", MODEL, "--wait", *options)

        def fail_it() -> bool:
            with sessions.begin() as session:
                for job_id in leases.reoffer_candidates(session, 1):
                    lease = leases.claim(session, job_id, 60, max_attempts=1, most_running=None)
                    assert lease is not None
                    leases.fail(session, lease, {"title": "Too little text", "detail": "3 of 32 windows"})
                    return True
            return False

        wait_for(fail_it)
        ended = waiting.result()
    refused(ended, "Too little text", "3 of 32 windows", code=ExitCode.JOB_FAILED)
    if options:
        job = json.loads(ended.stdout)
        assert (job["state"], job["error"]["detail"]) == ("failed", "3 of 32 windows")
    else:
        assert ended.stdout.startswith("job_")


@pytest.mark.parametrize(
    "command",
    [
        ["prune", MODEL, "--out", "pruned"],
        ["generate", ".", "Hello"],
        ["unpack", ".", "--out", "dense"],
        ["bench", "runtime", "."],
        ["serve", "--port", "0"],
    ],
    ids=lambda command: command[0],
)
def test_without_torch_the_extra_is_named(command: Sequence[str], tmp_path: Path) -> None:
    program = "import sys; sys.modules['torch'] = None; from app.cli.main import main; main()"
    ran = subprocess.run(
        [sys.executable, "-c", program, *command], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    refused(ran, "the extra `worker`: pip install 'eggs[worker]'")
    assert not any(tmp_path.iterdir())


def test_json_for_programs(eggs: Eggs, sessions: Sessions, settings: Settings, tmp_path: Path) -> None:
    def output(*arguments: str) -> Any:
        result = eggs(*arguments, "--json")
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    job = output("submit", MODEL, "--name", "mine")
    assert (job["object"], job["state"], job["spec"]["pattern"]) == ("job", "queued", "2:4")
    assert [one["id"] for one in output("list")] == [job["id"]]
    assert output("status", job["id"])["name"] == "mine"
    publish(sessions, settings, must_claim(sessions, job["id"]), {"config.json": b"{}"})
    watched = eggs("watch", job["id"], "--json").stdout.splitlines()
    assert [json.loads(line)["type"] for line in watched] == ["job.queued", "job.running", "job.succeeded"]
    published = Report.model_validate(REPORT | {"acceptance": None})
    assert output("report", job["id"]) == published.model_dump(mode="json")
    out = tmp_path / "out"
    assert output("download", job["id"], "--out", str(out)) == [str(out / "config.json")]
    assert output("cancel", output("submit", MODEL)["id"])["state"] == "cancelled"
    assert MODEL in [model["id"] for model in output("models")]


def test_waiting_leaves_only_json_on_standard_output(eggs: Eggs, sessions: Sessions, settings: Settings) -> None:
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(eggs, "submit", MODEL, "--wait", "--json")

        def waits() -> list[str]:
            with sessions() as session:
                return list(leases.reoffer_candidates(session, 1))

        (job_id,) = wait_for(waits)
        publish(sessions, settings, must_claim(sessions, job_id), {})
        assert json.loads(waiting.result().stdout)["state"] == "succeeded"


def test_compare(eggs: Eggs, sessions: Sessions, settings: Settings) -> None:
    accept = {"perplexity_ratio": 1.00014}
    done = make_job(sessions, pattern="4:8", name="wide", calibration={"samples": 3}, accept_if=accept)
    publish(sessions, settings, must_claim(sessions, done), {})
    queued = make_job(sessions, evaluation=None)
    shown = eggs("compare", done, queued)
    assert shown.returncode == 0, shown.stderr
    rows = {line.split("│")[1].strip(): line for line in shown.stdout.splitlines() if line.startswith("│")}
    assert re.search(r"4:8 +│ 2:4 ", rows["pattern"])
    assert re.search(r"3 +│ 32 ", rows["calibration.samples"])
    assert re.search(r"1\.00014 +│ – ", rows["accept_if.perplexity_ratio"])
    assert re.search(r"succeeded +│ queued ", rows["State"])
    assert re.search(r"130\.1 +│ – ", rows["Perplexity, pruned, pydocs"])
    assert "model" not in rows
    compared = json.loads(eggs("compare", done, queued, "--json").stdout)
    assert [job["id"] for job in compared["jobs"]] == [done, queued]
    assert compared["differences"]["pattern"] == ["4:8", "2:4"]
    assert compared["figures"]["Perplexity, dense, pydocs"] == [20.4, None]
    assert compared["figures"]["Bytes, pruned"][0] > 0
    assert eggs("compare", done).returncode == ExitCode.USAGE
    refused(eggs("compare", done, "job_x"), "No such job")


def test_keys_of_a_service(eggs: Eggs, server: RunningServer, admin_key: str) -> None:
    by_service = ["--url", server.url, "--key", admin_key, "--json"]
    limits = ["--max-queued-jobs", "0", "--max-running-jobs", "2", "--max-stored-bytes", "1000"]
    options = ["--name", "remote", "--expires-in-days", "1", *limits]
    created = json.loads(eggs("keys", "create", *options, *by_service).stdout)
    assert created["limits"] == {"queued_jobs": 0, "running_jobs": 2, "upload_bytes": None, "stored_bytes": 1000}
    assert eggs("list", EGGS_API_KEY=created["token"]).returncode == 0
    listed = json.loads(eggs("keys", "list", *by_service).stdout)
    (entry,) = [key for key in listed if key["name"] == "remote"]
    assert entry == {name: value for name, value in created.items() if name != "token"} | {
        "last_used_at": entry["last_used_at"]
    }
    assert entry["id"] not in eggs("keys", "list").stdout  # which asks the database of this installation
    assert "remote" in eggs("keys", "list", *by_service[:-1]).stdout
    assert json.loads(eggs("keys", "revoke", entry["id"], *by_service).stdout)["revoked_at"]
    refused(eggs("list", EGGS_API_KEY=created["token"]), "The API key is not valid")
    refused(eggs("keys", "list", "--url", server.url), "scope")
    refused(eggs("keys", "revoke", "key_x", *by_service), "No such key")
    assert eggs("keys", "create", "--project", "other", *by_service).returncode == ExitCode.USAGE
    for days in ("0", "99999999999"):
        assert eggs("keys", "create", "--expires-in-days", days).returncode == ExitCode.USAGE


def test_sweeps(eggs: Eggs, sessions: Sessions) -> None:
    submitted = eggs(
        "sweeps",
        "submit",
        MODEL,
        "--vary",
        "method=eggs:fast,ria",
        "--vary",
        "pattern=2:4,4:8",
        "--set",
        "calibration.samples=3",
        "--set",
        "permute=true",
        "--name",
        "mine",
        "--json",
    )
    sweep = json.loads(submitted.stdout)
    assert [trial["change"] for trial in sweep["trials"]] == [
        {"method": "eggs", "effort": "fast", "pattern": "2:4"},
        {"method": "eggs", "effort": "fast", "pattern": "4:8"},
        {"method": "ria", "pattern": "2:4"},
        {"method": "ria", "pattern": "4:8"},
    ]
    jobs = [trial["job_id"] for trial in sweep["trials"]]
    specs = [read_job(sessions, job_id).spec for job_id in jobs]
    assert {(spec["calibration"]["samples"], spec["permute"]) for spec in specs} == {(3, True)}
    for job_id in jobs[:2]:
        finish(sessions, job_id)
    shown = eggs("sweeps", "show", sweep["id"]).stdout
    assert [shown.count(text) for text in ("130.10", "best", "queued")] == [2, 1, 2]
    assert sweep["id"] in eggs("sweeps", "list").stdout
    (listed,) = json.loads(eggs("sweeps", "list", "--json").stdout)
    assert (listed["id"], listed["name"], listed["jobs"]) == (sweep["id"], "mine", {"queued": 2, "succeeded": 2})
    found = json.loads(eggs("sweeps", "show", sweep["id"], "--json").stdout)
    assert (found["best"], found["trials"][0]["figures"]["texts"][0]["pruned"]) == (0, 130.1)
    assert json.loads(eggs("sweeps", "cancel", sweep["id"], "--json").stdout)["state"] == "cancelled"
    ended = json.loads(eggs("sweeps", "show", sweep["id"], "--json").stdout)["completed_at"]
    assert f"is cancelled, ended {ended[:19].replace('T', ' ')}" in eggs("sweeps", "show", sweep["id"]).stdout
    refused(eggs("sweeps", "cancel", sweep["id"]), "no job left")
    refused(eggs("sweeps", "show", "sweep_x"), "No such sweep")
    refused(eggs("sweeps", "submit", MODEL, "--vary", "method=ria"), "There should be 2 at least")
    assert eggs("sweeps", "submit", MODEL, "--vary", "method").returncode == ExitCode.USAGE
    twice = ["--set", "calibration=3", "--set", "calibration.samples=4"]
    refused(eggs("sweeps", "submit", MODEL, "--vary", "method=ria", *twice), "Leave one", code=ExitCode.USAGE)


def test_webhooks(eggs: Eggs, settings: Settings, receiver: Receiver, admin_key: str) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return eggs("webhooks", *arguments, EGGS_API_KEY=admin_key)

    webhook_id, secret = run("create", receiver.url, "--event", "sweep.completed").stdout.split()
    assert secret.startswith("whsec_")
    listed = run("list").stdout
    assert (webhook_id in listed, receiver.url in listed, secret in listed) == (True, True, False)
    message_id = run("ping", webhook_id).stdout.split()[0]
    wait_for(lambda: json.loads(run("deliveries", webhook_id, "--json").stdout)[0]["state"] == "delivered")
    assert receiver.received[0].verified(secret)["type"] == "webhook.ping"
    shown = run("deliveries", webhook_id, "--state", "delivered").stdout
    assert (message_id in shown, "webhook.ping" in shown) == (True, True)
    assert json.loads(run("redeliver", webhook_id, message_id, "--json").stdout)["id"] == message_id
    wait_for(lambda: len(receiver.received) == 2)
    sweep = eggs("sweeps", "submit", MODEL, "--vary", "method=ria,wanda").stdout.strip()
    eggs("sweeps", "cancel", sweep)
    assert [sweep in run("deliveries", webhook_id, *form).stdout for form in ((), ("--json",))] == [True, True]
    refused(run("create", receiver.url, "--event", "job.eaten"), "events.0", "job.succeeded")
    refused(eggs("webhooks", "list"), "scope")
    assert "is deleted" in run("delete", webhook_id).stdout
    refused(run("deliveries", webhook_id), "No such webhook")


def test_webhooks_as_json(eggs: Eggs, receiver: Receiver, admin_key: str) -> None:
    def output(*arguments: str) -> Any:
        return json.loads(eggs("webhooks", *arguments, "--json", EGGS_API_KEY=admin_key).stdout)

    created = output("create", receiver.url, "--description", "mine")
    secret = created.pop("secret")
    assert (created["url"], created["description"]) == (receiver.url, "mine")
    assert output("list") == [created]
    ping = output("ping", created["id"])
    assert (ping["webhook_id"], ping["type"]) == (created["id"], "webhook.ping")
    wait_for(lambda: receiver.received)
    assert receiver.received[0].verified(secret)["type"] == "webhook.ping"
    assert output("delete", created["id"]) == {"id": created["id"], "deleted": True}
    assert output("list") == []


def test_workers(eggs: Eggs, sessions: Sessions, admin_key: str) -> None:
    job_id = make_job(sessions)
    make_worker(sessions, job_id, hostname="gpu-1")
    make_worker(sessions, hostname="cpu-1", gpus="", gpu_memory_bytes=0, cpus=8, memory_bytes=64 * 10**9)
    shown = eggs("workers", EGGS_API_KEY=admin_key).stdout
    rows = {line.split()[0]: line for line in shown.splitlines()}
    assert re.search(rf"busy +{job_id} A GPU, Another +68.72 GB ", rows["gpu-1"])
    assert re.search(r"online +8 processors +64 GB ", rows["cpu-1"])
    found = json.loads(eggs("workers", "--json", EGGS_API_KEY=admin_key).stdout)
    assert [(one["hostname"], one["state"], one["job_id"]) for one in found] == [
        ("gpu-1", "busy", job_id),
        ("cpu-1", "online", None),
    ]
    refused(eggs("workers"), "scope")


def test_migrate(eggs: Eggs, tmp_path: Path) -> None:
    new = {"EGGS_DATA_DIR": str(tmp_path / "new")}
    first = json.loads(eggs("migrate", "--json", **new).stdout)
    assert (first["before"], first["after"] > "0001") == (None, True)
    again = json.loads(eggs("migrate", "--json", **new).stdout)
    assert (again["before"], again["after"]) == (first["after"], first["after"])
    assert eggs("migrate", **new).stdout == "The schema is up to date.\n"


def test_no_database_at_the_address(eggs: Eggs) -> None:
    refused = eggs("migrate", EGGS_DATABASE_URL="postgres://eggs:not-shown@db/eggs")
    assert refused.returncode == ExitCode.REFUSED
    assert "database_url: it is neither sqlite:///PATH nor postgresql+psycopg://" in refused.stderr
    assert len(refused.stderr.splitlines()) == 2
    assert "not-shown" not in refused.stderr


def test_the_page_on_the_command_line_is_complete() -> None:
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    assert re.findall(r"^\| (\d) \|", page, re.MULTILINE) == [str(code.value) for code in ExitCode]
    commands = {command.name for command in app.registered_commands}
    commands |= {group.name for group in app.registered_groups}
    listed = "".join(line for line in page.splitlines() if line.startswith(("| by a", "| here", "| for the")))
    assert set(re.findall(r"`([a-z-]+)`", listed)) == commands


def commands_of(group: Any, path: str = "eggs") -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands_of(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def test_every_command_speaks_json() -> None:
    found = dict(commands_of(get_command(app)))
    assert found.keys() >= {"eggs serve", "eggs sweeps submit", "eggs bench runtime"}
    without = [
        path for path, command in found.items() if not any("--json" in option.opts for option in command.params)
    ]
    assert without == []


def test_help_names_every_option_in_full_on_a_narrow_terminal(eggs: Eggs) -> None:
    shown = eggs("submit", "--help", COLUMNS="80").stdout
    options = [
        option
        for parameter in dict(commands_of(get_command(app)))["eggs submit"].params
        for option in parameter.opts
    ]
    assert "--evaluation-sequence-length" in options
    assert [option for option in options if option not in shown] == []
    assert "N:M, such as 2:4" in shown
    for group in ([], ["keys"], ["sweeps"], ["webhooks"], ["bench"]):
        commands = eggs(*group, "--help", COLUMNS="80").stdout.partition("Commands:")[2]
        assert (commands != "", "..." in commands) == (True, False)


def test_the_version(eggs: Eggs) -> None:
    assert eggs("--version").stdout == f"{version('eggs')}\n"


def test_completion() -> None:
    """By the program itself: it is its name that the shell's request has."""
    asked = {"_EGGS_COMPLETE": "complete_bash", "COMP_WORDS": "eggs webh", "COMP_CWORD": "1"}
    program = Path(sys.executable).with_name("eggs")
    completed = subprocess.run([program], env=os.environ | asked, capture_output=True, text=True, timeout=60)
    assert completed.stdout.split() == ["webhooks"]


def test_nothing_heavy_is_loaded_to_show_help() -> None:
    script = """
import sys
from app.cli.main import app
heavy = {"torch", "transformers", "httpx", "eggs_client", "fastapi", "celery", "alembic", "boto3", "sqlalchemy"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_cancel(eggs: Eggs, sessions: Sessions) -> None:
    queued, running = make_job(sessions), make_job(sessions)
    must_claim(sessions, running)
    assert "is cancelled" in eggs("cancel", queued).stdout
    assert "stops after the block at hand" in eggs("cancel", running).stdout
    refused(eggs("cancel", queued), "The job is cancelled already", "submit it again")
    assert read_job(sessions, queued).state is JobState.CANCELLED
    refused(eggs("watch", queued), "The job was cancelled", code=ExitCode.JOB_CANCELLED)


def test_what_is_refused(eggs: Eggs) -> None:
    refused(eggs("submit", "gpt-5"), "No such model", "GET /v1/models")
    refused(eggs("submit", MODEL, "--pattern", "2-4"), "The request is not valid", "such as 2:4")
    refused(eggs("submit", MODEL, "--compare", "eggs:best"), "Compare with balanced")
    refused(eggs("submit", MODEL, "--compare", "eggs:"), "compare.0.effort", "'fast', 'balanced' or 'best'")
    refused(eggs("submit", MODEL, "--accept-perplexity-ratio", "nan"), "The request cannot be sent", "JSON")
    refused(eggs("status", "job_x"), "No such job")
    refused(eggs("status", ""), "'' is no id")
    refused(eggs("list", EGGS_API_KEY="eggs_wrong"), "The API key is not valid", "eggs keys create")
    assert eggs("list", "--nonsense").returncode == 2
    assert eggs("submit", MODEL, "--method", "obd").returncode == 2


def test_a_model_of_the_list_is_pruned_by_its_name(eggs: Eggs, make_model: MakeModel, tmp_path: Path) -> None:
    folder = tmp_path / "client" / "models" / "tiny[v2]"
    shutil.copytree(make_model("llama"), folder)
    assert "tiny[v2]" in [model["id"] for model in json.loads(eggs("models", "--json").stdout)]
    assert "tiny[v2]" in eggs("models").stdout
    options = ["--method", "magnitude", "--evaluation", "none", "--calibration-samples", "1"]
    options += ["--sequence-length", "32", "--json"]
    pruned = eggs("prune", "tiny[v2]", "--out", str(tmp_path / "out"), *options)
    assert pruned.returncode == 0, pruned.stderr
    assert json.loads(pruned.stdout)["model"]["reference"] == str(folder)


def test_what_is_refused_without_a_service(eggs: Eggs, tmp_path: Path) -> None:
    refused(
        eggs("prune", MODEL, "--out", str(tmp_path / "out"), "--pattern", "5:4"), "pattern", "5:4 is not an N:M"
    )
    refused(
        eggs("prune", MODEL, "--out", str(tmp_path / "out"), "--method", "ria", "--min-degree", "2"),
        "leave it out",
    )
    refused(
        eggs("prune", MODEL, "--out", str(tmp_path / "out"), "--compare", "ria", "--evaluation", "none"),
        "leave compare out",
    )
    unmeasured = eggs("prune", MODEL, "--out", str(tmp_path / "out"), "--evaluation", "none", "--speed")
    assert unmeasured.returncode == ExitCode.USAGE
    assert "There is to be no evaluation" in unmeasured.stderr
    refused(eggs("keys", "revoke", "key_x"), "No such key")
    refused(eggs("models", EGGS_PORT="many"), "port")
    refused(eggs("keys", "list", EGGS_DATABASE_URL="postgresql+psycopg://x@127.0.0.1:1/x"), "The database")
    assert MODEL in eggs("models").stdout


def test_no_service_at_the_address(eggs: Eggs) -> None:
    refused(eggs("list", EGGS_URL="http://127.0.0.1:1"), "no answer from http://127", code=ExitCode.UNREACHABLE)
    refused(eggs("list", EGGS_URL="127.0.0.1:8000"), "no address of a service", "EGGS_URL")
    refused(eggs("list", EGGS_API_KEY="eggs_…"), "The API key is not valid", "EGGS_API_KEY")


def test_keys(eggs: Eggs, tmp_path: Path) -> None:
    token = eggs("keys", "create", "--name", "laptop", "--max-upload-bytes", "12345").stdout.strip()
    assert re.fullmatch(r"eggs_\w{26}_[0-9a-f]{64}", token)
    listed = eggs("keys", "list").stdout
    assert "laptop" in listed
    assert token not in listed
    assert "12345" in listed
    assert eggs("keys", "create", "--max-running-jobs", "0").returncode == ExitCode.USAGE
    key_id = f"key_{token.split('_')[1]}"
    assert key_id in listed
    assert "is revoked" in eggs("keys", "revoke", key_id).stdout


def test_the_service_of_the_demo_may_say_as_much_as_it_likes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EGGS_DATABASE_URL", "postgresql+psycopg://x@127.0.0.1:1/x")
    monkeypatch.setenv("EGGS_PORT", "many")
    path = "/healthz?" + "x" * 2000
    with (
        demo._service(EmbeddedSettings(data_dir=tmp_path, port=0)) as (url, key),
        connect(url, key) as client,
        httpx.Client(base_url=url, timeout=60) as http,
    ):
        assert list(client.jobs.list()) == []  # waits until it listens
        for _ in range(100):  # each with a line in the log, which together no pipe can hold
            assert http.get(path).status_code == 200
    assert (tmp_path / "demo.log").read_text().count(path) == 100


def test_the_demo_for_programs(
    make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """All that it prints is its report; with a tiny model in the place of the real one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "MODEL", "tiny")
    shutil.copytree(make_model("llama"), tmp_path / "data" / "models" / "tiny")
    demo.demo(
        tmp_path / "data", samples=1, evaluation_samples=1, sequence_length=32, effort=Effort.FAST, as_json=True
    )
    said = capfd.readouterr()
    report = json.loads(said.out)
    assert report["model"]["reference"] == "tiny"
    assert report == json.loads((tmp_path / "demo-report.json").read_text())


def test_a_job_with_a_push(eggs: Eggs, sessions: Sessions, settings: Settings) -> None:
    settings.allow_hub = True
    options = ["--push-to-hub", "acme/tiny", "--hub-revision", "runs", "--hub-public", "--format", "packed"]
    submitted = eggs("submit", MODEL, *options, HF_TOKEN="hf_secret")
    assert submitted.returncode == 0, submitted.stderr
    job = read_job(sessions, submitted.stdout.strip())
    assert job.push_to_hub is not None
    assert job.push_to_hub.items() >= {"repo_id": "acme/tiny", "revision": "runs", "private": False}.items()
    assert job.spec["output"] == {"format": "packed"}
    assert Secrets(settings).decrypt(str(job.hub_token)) == "hf_secret"
    without = eggs("submit", MODEL, HF_TOKEN="hf_secret")
    assert read_job(sessions, without.stdout.strip()).hub_token is None


@pytest.mark.parametrize(("limit", "code"), [("9", ExitCode.DONE), ("1.15", ExitCode.REJECTED)])
def test_a_pipeline_can_gate_on_the_verdict(
    eggs: Eggs, sessions: Sessions, settings: Settings, limit: str, code: ExitCode
) -> None:
    """What ends with 0 was accepted; the report is shown in any case."""
    verdict = "accepted" if code is ExitCode.DONE else "rejected"
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(eggs, "submit", MODEL, "--accept-perplexity-ratio", limit, "--wait")
        (job_id,) = wait_for(lambda: _queued(sessions))
        assert read_job(sessions, job_id).spec["accept_if"]["perplexity_ratio"] == float(limit)
        report = REPORT | {"acceptance": REPORT["acceptance"] | {"verdict": verdict}}
        lease = must_claim(sessions, job_id)
        with sessions.begin() as session:
            leases.succeed(session, lease, report=report, artifacts=[], artifacts_dir=job_id)
        ended = waiting.result()
    assert ended.returncode == code, ended.stderr
    assert "Perplexity" in ended.stdout
    assert verdict in ended.stdout
    watched = eggs("watch", job_id)
    assert watched.returncode == code
    assert ("The model is rejected" in watched.stderr, f"eggs report {job_id}" in watched.stderr) == (
        (code is ExitCode.REJECTED,) * 2
    )
    assert re.search(rf"succeeded {'✓' if code is ExitCode.DONE else '✗'}", eggs("list").stdout)
    assert re.search(rf"Verdict +│ {verdict}", eggs("status", job_id).stdout)


def _queued(sessions: Sessions) -> Sequence[str]:
    with sessions() as session:
        return leases.reoffer_candidates(session, 1)
