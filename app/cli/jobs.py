"""Commands that talk to a service over HTTP."""

import json
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from app.cli import options
from app.cli.client import ApiError, Client
from app.cli.options import DEFAULT_URL
from app.cli.render import ProgressBar, console, job_facts, jobs_table, report_tables, state, write_json
from eggs_core.report import Report


def submit(
    model: options.Model,
    key: options.Key,
    url: options.Url = DEFAULT_URL,
    revision: options.Revision = None,
    pattern: options.Pattern = None,
    method: options.MethodOption = None,
    effort: options.EffortOption = None,
    min_degree: options.MinDegree = None,
    permute: options.Permute = None,
    ignore: options.Ignore = None,
    calibration: options.Calibration = None,
    calibration_samples: options.CalibrationSamples = None,
    sequence_length: options.SequenceLength = None,
    seed: options.Seed = None,
    seeds: options.Seeds = None,
    compare: options.Compare = None,
    evaluation: options.Evaluation = None,
    evaluation_samples: options.EvaluationSamples = None,
    generations: options.Generations = None,
    task: options.Tasks = None,
    task_limit: options.TaskLimit = None,
    output_format: options.Format = None,
    speed: options.Speed = False,
    name: Annotated[str | None, typer.Option(help="What you call the job.")] = None,
    push_to_hub: Annotated[
        str | None, typer.Option(metavar="ORG/NAME", help="Push the model to this Hub repository as well.")
    ] = None,
    hub_revision: Annotated[
        str | None, typer.Option(help="The branch it is pushed to; main unless given.")
    ] = None,
    hub_public: Annotated[
        bool, typer.Option("--hub-public", help="Make the repository public, if it has to be made.")
    ] = False,
    hub_token: Annotated[
        str | None,
        typer.Option(
            envvar="HF_TOKEN",
            show_default=False,
            help="A token that may write there; sent only with --push-to-hub.",
        ),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the job to its end and show its report.")] = False,
) -> None:
    """Submit a job; prints its id."""
    request = options.request(
        model=model,
        revision=revision,
        pattern=pattern,
        method=method,
        effort=effort,
        min_degree=min_degree,
        permute=permute,
        ignore=ignore,
        calibration=calibration,
        calibration_samples=calibration_samples,
        sequence_length=sequence_length,
        seed=seed,
        seeds=seeds,
        compare=compare,
        evaluation=evaluation,
        evaluation_samples=evaluation_samples,
        generations=generations,
        tasks=task,
        task_limit=task_limit,
        output_format=output_format,
        speed=speed,
    )
    if name:
        request["name"] = name
    if push_to_hub:
        push = {"repo_id": push_to_hub, "private": not hub_public} | (
            {"revision": hub_revision} if hub_revision else {}
        )
        request["output"] = request.get("output", {}) | {"push_to_hub": push}
        if hub_token:
            request["hub_token"] = hub_token
    with Client(url, key) as client:
        job = client.submit(request)
        console.print(job["id"], highlight=False)
        if wait:
            follow(client, job["id"])
            console.print(report_tables(Report.model_validate(client.report(job["id"]))))


def list_jobs(
    key: options.Key,
    url: options.Url = DEFAULT_URL,
    limit: Annotated[int, typer.Option(min=1, max=100, help="Jobs to list.")] = 20,
    only: Annotated[str | None, typer.Option("--state", help="Only jobs in this state.")] = None,
) -> None:
    """List the newest jobs."""
    with Client(url, key) as client:
        console.print(jobs_table(client.jobs(limit=limit, state=only)))


def status(job: options.JobId, key: options.Key, url: options.Url = DEFAULT_URL) -> None:
    """Show how a job stands."""
    with Client(url, key) as client:
        console.print(job_facts(client.job(job)))


def watch(job: options.JobId, key: options.Key, url: options.Url = DEFAULT_URL) -> None:
    """Follow a job to its end; ends with 0 only if it succeeds."""
    with Client(url, key) as client:
        follow(client, job)


def cancel(job: options.JobId, key: options.Key, url: options.Url = DEFAULT_URL) -> None:
    """Cancel a job that waits, or ask one that runs to stop."""
    with Client(url, key) as client:
        cancelled = client.cancel(job)
        if cancelled["state"] == "cancelled":
            console.print(f"{job} is {state('cancelled')}.", highlight=False)
        else:
            console.print(
                f"{job} stops after the block at hand; follow it with: eggs watch {job}", highlight=False
            )


def report(
    job: options.JobId,
    key: options.Key,
    url: options.Url = DEFAULT_URL,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for other programs.")] = False,
) -> None:
    """Show the report of a job that succeeded."""
    with Client(url, key) as client:
        content = client.report(job)
    if as_json:
        write_json(json.dumps(content, indent=2, ensure_ascii=False))
    else:
        console.print(report_tables(Report.model_validate(content)))


def download(job: options.JobId, out: options.Out, key: options.Key, url: options.Url = DEFAULT_URL) -> None:
    """Download and verify a job's files; run again, it goes on where it broke off."""
    with Client(url, key) as client:
        artifacts = client.artifacts(job)
        if not artifacts:
            raise ApiError(
                "The job has no files", f"It is {client.job(job)['state']}. Only a job that succeeds has some."
            )
        download_all(client, job, artifacts, out)
    console.print(f"{len(artifacts)} files, all verified, are in {out}", highlight=False, markup=False)


def follow(client: Client, job_id: str) -> None:
    """Shows a job's progress until it succeeds. Raises `ApiError` where it does not."""
    for event in _shown(client, job_id):
        if event["type"] == "job.failed":
            error = event["data"]["error"]
            raise ApiError(error.get("title", "The job failed"), error.get("detail", "It does not say why."))
        if event["type"] == "job.cancelled":
            raise ApiError("The job was cancelled", "Submit it again to run it after all.")


def download_all(client: Client, job_id: str, artifacts: list[dict[str, Any]], out: options.Out) -> None:
    """Downloads the artifacts into a folder, with a progress bar over all of their bytes."""
    total = sum(artifact["bytes"] for artifact in artifacts) or 1
    done = 0
    with ProgressBar("Download") as bar:
        for artifact in artifacts:
            name, before = artifact["name"], done

            def show(there: int, name: str = name, before: int = before) -> None:
                bar.update((before + there) / total, name)

            client.download(job_id, artifact, out, on_bytes=show)
            done += artifact["bytes"]


def _shown(client: Client, job_id: str) -> Iterator[dict[str, Any]]:
    with ProgressBar("Job") as bar:
        for event in client.events(job_id):
            bar.update(event["progress"], event["message"])
            yield event
