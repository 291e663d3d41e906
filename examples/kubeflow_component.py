"""A component of Kubeflow Pipelines that prunes a model by a running service, and a pipeline of this one step.

    EGGS_PACKAGE='https://…/main.tar.gz#subdirectory=client' python kubeflow_component.py pipeline.yaml

compiles the pipeline; EGGS_PACKAGE is what pip is to install as eggs-client in the step's container, which has no
git: an archive of the repository as above, or a wheel. It needs `kfp` and `kfp-kubernetes`. The cluster has to
have a secret `eggs` with the service's API key as EGGS_API_KEY.
"""

import os
import sys

from kfp import compiler, dsl, kubernetes


@dsl.component(base_image="python:3.12.14-slim-bookworm", packages_to_install=[os.environ["EGGS_PACKAGE"]])
def prune(
    url: str,
    model: str,
    pattern: str,
    ratio: float,
    run: str,
    checkpoint: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
):
    """Fails where perplexity pruned / dense is above `ratio` on the evaluation text.

    Tried again in the same `run`, it goes on with the job that it has.
    """
    import hashlib

    from eggs_client import Eggs

    key = hashlib.sha256(f"{run} {model} {pattern} {ratio}".encode()).hexdigest()
    with Eggs(url) as eggs:
        accept_if = {"perplexity_ratio": ratio}
        job = eggs.jobs.submit(model=model, pattern=pattern, accept_if=accept_if, idempotency_key=key).wait()
        for text in job.report().evaluation.texts:
            metrics.log_metric("perplexity ratio", text.perplexity.ratio)
            metrics.log_metric("KL divergence", text.kl_divergence)
        if job.verdict.value == "rejected":
            raise SystemExit(f"The model that {job.id} made is not good enough.")
        checkpoint.metadata["job"] = job.id
        job.download(checkpoint.path)


@dsl.pipeline(name="prune")
def pipeline(url: str, model: str = "smollm2-135m-instruct", pattern: str = "2:4", ratio: float = 1.15):
    """Prunes a model and keeps what came out as an artifact."""
    step = prune(url=url, model=model, pattern=pattern, ratio=ratio, run=dsl.PIPELINE_JOB_ID_PLACEHOLDER)
    step.set_caching_options(False)
    step.set_retry(num_retries=1)
    kubernetes.use_secret_as_env(step, secret_name="eggs", secret_key_to_env={"EGGS_API_KEY": "EGGS_API_KEY"})


if __name__ == "__main__":
    compiler.Compiler().compile(pipeline, sys.argv[1])
