"""A DAG of Airflow 3 that prunes a model by a running service, and holds no worker's slot while it waits.

Airflow's workers need `eggs-client`, and in their environment EGGS_URL (the service) and EGGS_API_KEY.
"""

import hashlib
from datetime import timedelta

from airflow.sdk import dag, task
from airflow.sdk.exceptions import AirflowFailException

from eggs_client import Eggs, JobCancelled, JobFailed


@dag(
    schedule=None,
    params={"model": "smollm2-135m-instruct", "pattern": "2:4", "ratio": 1.15},
    default_args={"retries": 2},
)
def prune():
    """Prunes `model`; fails where perplexity pruned / dense is above `ratio` on the evaluation text."""

    @task
    def submit(params, dag_run) -> str:
        """Tried again, it is the same job; after the run was cleared, it is another one."""
        run = f"{dag_run.dag_id} {dag_run.run_id} {dag_run.clear_number}"
        with Eggs() as eggs:
            job = eggs.jobs.submit(
                model=params["model"],
                pattern=params["pattern"],
                accept_if={"perplexity_ratio": params["ratio"]},
                idempotency_key=hashlib.sha256(run.encode()).hexdigest(),
            )
        return job.id

    @task.sensor(mode="reschedule", poke_interval=60, timeout=timedelta(days=1))
    def wait(job: str) -> bool:
        with Eggs() as eggs:
            found = eggs.jobs.get(job)
            if not found.ended:
                return False
            try:
                found.wait()
            except (JobFailed, JobCancelled) as error:
                raise AirflowFailException(f"{job}: {error}") from error
        return True

    @task
    def report(job: str) -> dict[str, float]:
        with Eggs() as eggs:
            found = eggs.jobs.get(job)
            text = found.report().evaluation.texts[0]
        if found.verdict == "rejected":
            raise AirflowFailException(
                f"The model that {job} made is not good enough: {text.perplexity.ratio:.3f}"
            )
        return {"perplexity ratio": text.perplexity.ratio, "KL divergence": text.kl_divergence}

    @task
    def stop(job: str) -> None:
        """Nothing where the job has ended. As a teardown it also runs where a task or the whole run is stopped."""
        with Eggs() as eggs:
            if not (found := eggs.jobs.get(job)).ended:
                found.cancel()

    job = submit()
    wait(job) >> report(job) >> stop(job).as_teardown(setups=job)


prune()
