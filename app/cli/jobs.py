"""Commands that talk to a service over HTTP."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import RenderableType

from app.cli import options
from app.cli.connection import connect
from app.cli.exit_codes import ExitCode
from app.cli.options import DEFAULT_URL
from app.cli.render import (
    console,
    job_facts,
    jobs_table,
    progress_bar,
    report_tables,
    show_error,
    state,
    write_json,
)
from eggs_core.report import Report

if TYPE_CHECKING:
    from eggs_client import Job, models


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
    text_field: options.TextField = None,
    seed: options.Seed = None,
    seeds: options.Seeds = None,
    compare: options.Compare = None,
    evaluation: options.Evaluation = None,
    evaluation_samples: options.EvaluationSamples = None,
    evaluation_sequence_length: options.EvaluationSequenceLength = None,
    evaluation_text_field: options.EvaluationTextField = None,
    generations: options.Generations = None,
    task: options.Tasks = None,
    task_limit: options.TaskLimit = None,
    output_format: options.Format = None,
    speed: options.Speed = False,
    name: Annotated[str | None, typer.Option(help="What you call the job.")] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="A pair of your own, given back as it is; may be given again."),
    ] = None,
    priority: Annotated[
        int | None, typer.Option(help="Of your jobs that wait the one with the highest starts first.")
    ] = None,
    accept_perplexity_ratio: Annotated[
        float | None,
        typer.Option(help="With --wait: end with 6 if perplexity pruned / dense is higher on an evaluation text."),
    ] = None,
    accept_kl_divergence: Annotated[
        float | None, typer.Option(help="The same, if the mean KL divergence per token is higher, in nats.")
    ] = None,
    accept_top1_agreement: Annotated[
        float | None,
        typer.Option(help="The same, if both models agree on the likeliest token for a smaller share of tokens."),
    ] = None,
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
    as_json: options.Json = False,
) -> None:
    """Submit a job; prints its id."""
    from eggs_client import ClientError, JobCancelled, JobFailed

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
        text_field=text_field,
        seed=seed,
        seeds=seeds,
        compare=compare,
        evaluation=evaluation,
        evaluation_samples=evaluation_samples,
        evaluation_sequence_length=evaluation_sequence_length,
        evaluation_text_field=evaluation_text_field,
        generations=generations,
        tasks=task,
        task_limit=task_limit,
        output_format=output_format,
        speed=speed,
    )
    request |= options.given(
        name=name or None,
        metadata=dict(map(_pair, metadata)) if metadata else None,
        priority=priority,
        accept_if=options.given(
            perplexity_ratio=accept_perplexity_ratio,
            kl_divergence=accept_kl_divergence,
            top1_agreement=accept_top1_agreement,
        )
        or None,
    )
    if push_to_hub:
        push = {"repo_id": push_to_hub, "private": not hub_public} | (
            {"revision": hub_revision} if hub_revision else {}
        )
        request["output"] = request.get("output", {}) | {"push_to_hub": push}
        if hub_token:
            request["hub_token"] = hub_token
    with connect(url, key) as client:
        job = client.jobs.submit(**request)
        if not as_json:
            console.print(job.id, highlight=False)
        try:
            if wait:
                job = _waited(job, as_json)
        except ClientError as error:
            if as_json:  # else nothing would say which job it was
                write_json(job.refresh() if isinstance(error, JobFailed | JobCancelled) else job)
            raise
        if as_json:
            write_json(job)
        elif wait:
            console.print(_tables(job.report()))
    _end_by_verdict(job)


def list_jobs(
    key: options.Key,
    url: options.Url = DEFAULT_URL,
    limit: Annotated[int, typer.Option(min=1, help="Jobs to list.")] = 20,
    only: Annotated[str | None, typer.Option("--state", help="Only jobs in this state.")] = None,
    as_json: options.Json = False,
) -> None:
    """List the newest jobs."""
    with connect(url, key) as client:
        found = list(client.jobs.list(limit=limit, state=only))
    if as_json:
        write_json(found)
    else:
        console.print(jobs_table(found))


def status(
    job: options.JobId, key: options.Key, url: options.Url = DEFAULT_URL, as_json: options.Json = False
) -> None:
    """Show how a job stands."""
    with connect(url, key) as client:
        found = client.jobs.get(job)
    if as_json:
        write_json(found)
    else:
        console.print(job_facts(found))


def watch(
    job: options.JobId,
    key: options.Key,
    url: options.Url = DEFAULT_URL,
    as_json: Annotated[bool, typer.Option("--json", help="Each event as JSON on a line of its own.")] = False,
) -> None:
    """Follow a job to its end. Ends with 0 only if it succeeds, and is not rejected by what it asked for."""
    with connect(url, key) as client:
        watched = client.jobs.get(job)
        if as_json:
            for event in watched.events():
                write_json(event, indent=None)
        watched = _waited(watched, as_json)
    _end_by_verdict(watched)


def cancel(
    job: options.JobId, key: options.Key, url: options.Url = DEFAULT_URL, as_json: options.Json = False
) -> None:
    """Cancel a job that waits, or ask one that runs to stop."""
    with connect(url, key) as client:
        cancelled = client.jobs.cancel(job)
    if as_json:
        write_json(cancelled)
    elif cancelled.ended:
        console.print(f"{job} is {state(cancelled.state)}.", highlight=False)
    else:
        console.print(f"{job} stops after the block at hand; follow it with: eggs watch {job}", highlight=False)


def report(
    job: options.JobId, key: options.Key, url: options.Url = DEFAULT_URL, as_json: options.Json = False
) -> None:
    """Show the report of a job that succeeded."""
    with connect(url, key) as client:
        found = client.jobs.report(job)
    if as_json:
        write_json(found)
    else:
        console.print(_tables(found))


def download(
    job: options.JobId,
    out: options.Out,
    key: options.Key,
    url: options.Url = DEFAULT_URL,
    as_json: options.Json = False,
) -> None:
    """Download and verify a job's files. Run again, it goes on where it broke off."""
    with connect(url, key) as client:
        files = client.jobs.download(job, out, progress=False if as_json else progress_bar("Download"))
    if as_json:
        write_json([str(file) for file in files])
    else:
        console.print(f"{len(files)} files, all verified, are in {out}", highlight=False, markup=False)


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise typer.BadParameter(f"{text} is no pair. Write KEY=VALUE.")
    return key, value


def _waited(job: "Job", as_json: bool) -> "Job":
    """The job after it has succeeded, which its bar shows. Raises `JobFailed` or `JobCancelled`."""
    return job.wait(progress=False if as_json else progress_bar("Job"))


def _end_by_verdict(job: "Job") -> None:
    if job.verdict is not None and job.verdict.value == "rejected":
        show_error(
            "The model is rejected", f"It does not keep to accept_if; how far it is off says: eggs report {job.id}"
        )
        raise typer.Exit(ExitCode.REJECTED)


def _tables(found: "models.Report") -> RenderableType:
    return report_tables(Report.model_validate(found.model_dump(mode="json")))
