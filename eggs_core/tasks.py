"""Zero-shot and few-shot tasks through lm-evaluation-harness, whose package `lm_eval` is loaded only for them.

A task file can name Python functions, and those run: so files are read from allowed folders alone
(`eggs_core.sources`). Besides them nothing runs that a stranger wrote: no task that executes what a model
says, and no metric that the `evaluate` library would fetch as code.
"""

import difflib
import errno
import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from eggs_core import memory
from eggs_core.errors import EggsError, TaskNotAllowed, TaskNotFound, TasksNotInstalled
from eggs_core.report import TaskResult
from eggs_core.sources import resolve_task

# A guess at what an example takes, all its answers together; for the progress bar alone.
TOKENS_PER_EXAMPLE = 512
_BATCH_SIZE = 8
_RESAMPLES = 1000
_REPORT_SECONDS = 5.0

Results = dict[str, Any]
"""What `lm_eval.simple_evaluate` returns."""


class TaskSuite:
    """The tasks of a request, loaded with their data before any other work is done.

    Raises `TasksNotInstalled`, `TaskNotFound` or `TaskNotAllowed`.
    """

    def __init__(
        self, tasks: Sequence[str], limit: int | None, roots: Sequence[Path] | None, *, allow_hub: bool
    ) -> None:
        found = [resolve_task(task, roots, allow_hub=allow_hub) for task in tasks]
        folders = sorted({task.parent for task in found if isinstance(task, Path)})
        built_in = any(isinstance(task, str) for task in found)
        self._manager = _lm_eval().tasks.TaskManager(include_path=folders, include_defaults=built_in)
        self._limit = limit
        self._chosen = [part for name, task in zip(tasks, found, strict=True) for part in self._load(name, task)]
        try:
            leaves = self._manager.load(self._chosen)["tasks"].values()
        except ValueError as error:
            raise TaskNotFound("Two of the tasks overlap. Leave out those that a group already has.") from error
        for task in leaves:
            _refuse_unsafe(task)
        counts = [len(task.eval_docs) for task in leaves]
        self.examples = sum(count if limit is None else min(count, limit) for count in counts)
        """Of all tasks together."""

    def _load(self, reference: str, found: str | Path) -> list[Any]:
        """A task, the tasks of a tag, or a group."""
        name = self._named_in(found, reference) if isinstance(found, Path) else found
        if name not in self._manager.task_index:
            near = difflib.get_close_matches(name, self._manager.all_tasks, n=3)
            advice = f"Did you mean {' or '.join(near)}?" if near else "`lm-eval ls tasks` lists those it has."
            raise TaskNotFound(f"lm-evaluation-harness has no task {name}. {advice}")
        try:
            loaded = self._manager.load([name])
        except Exception as error:  # its file, the code and the data that it names fail in any way
            raise TaskNotFound(
                f"The task {reference} cannot be loaded ({type(error).__name__}). Check its file, and whether its "
                "data can be had here."
            ) from error
        return list(loaded["groups"].values())[:1] or list(loaded["tasks"].values())

    def _named_in(self, file: Path, reference: str) -> str:
        """The name of the task or group in a file."""
        for name, entry in self._manager.task_index.items():
            if entry.yaml_path == file:
                return str(name)
        raise TaskNotFound(
            f"{reference} holds no task or group, or another file has one of the same name. Check its fields "
            "`task` and `group`."
        )

    def run(self, model: Any, tokenizer: Any, advance: Callable[[int], None]) -> Results:
        """Runs all tasks on a model of transformers; `advance` is called now and then with the tokens done.

        Raises `TaskNotFound` where the tasks do not fit their data, and whatever `advance` raises.
        """
        stopped = False

        def tell(tokens: int) -> None:
            nonlocal stopped
            stopped = True
            advance(tokens)
            stopped = False

        try:
            return dict(
                _lm_eval().simple_evaluate(
                    _counting(model, tokenizer, tell),
                    tasks=self._chosen,
                    task_manager=self._manager,
                    limit=self._limit,
                    bootstrap_iters=_RESAMPLES,
                    log_samples=False,
                    confirm_run_unsafe_code=False,
                )
            )
        except Exception as error:  # their templates, and the code that they name, fail in any way
            if stopped or isinstance(error, EggsError) or _of_this_machine(error):
                raise
            raise TaskNotFound(
                f"A task fails while it runs ({type(error).__name__}). Check that the templates and functions in "
                "its file fit its data."
            ) from error


def _of_this_machine(error: Exception) -> bool:
    """Whether memory or disk ran out."""
    return memory.ran_out(error) or (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT))


def task_results(dense: Results, pruned: Results) -> list[TaskResult]:
    """Every metric of every task and of every group that has some, both models side by side."""
    rows = []
    for name, metrics in dense["results"].items():
        for key, value in metrics.items():
            metric, _, kind = key.partition(",")
            if not kind or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            of_pruned, error = pruned["results"][name], f"{metric}_stderr,{kind}"
            rows.append(
                TaskResult(
                    name=name,
                    metric=metric if kind == "none" else f"{metric} ({kind})",
                    dense=_finite(value),
                    pruned=_finite(of_pruned.get(key)),
                    dense_stderr=_finite(metrics.get(error)),
                    pruned_stderr=_finite(of_pruned.get(error)),
                    examples=metrics["sample_len"],
                )
            )
    return rows


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _lm_eval() -> Any:
    # Its bootstrap would start processes of its own, which a worker cannot and a command line should not.
    os.environ.setdefault("DISABLE_MULTIPROC", "1")
    try:
        import evaluate
        import lm_eval
        import lm_eval.tasks
    except ImportError as error:
        raise TasksNotInstalled(
            "Tasks need lm-evaluation-harness, which is not installed here. Install eggs with its extra `tasks`, "
            "or ask for no tasks."
        ) from error
    evaluate.config.HF_EVALUATE_OFFLINE = True
    return lm_eval


def _refuse_unsafe(task: Any) -> None:
    name = task.task_name
    if getattr(task, "UNSAFE_CODE", False):
        raise TaskNotAllowed(f"{name} runs code that the model writes, which is never done here. Leave it out.")
    if getattr(task, "MULTIMODAL", False):
        raise TaskNotAllowed(f"{name} shows the model pictures or sounds, which is not done here. Leave it out.")
    functions = getattr(task, "_metric_fn_list", {})
    if getattr(task.config, "process_results", None) is None and None in functions.values():
        raise TaskNotAllowed(
            f"{name} has a metric that would be fetched as code, which is never done here. Leave it out."
        )


def _counting(model: Any, tokenizer: Any, advance: Callable[[int], None]) -> Any:
    """The model as lm-evaluation-harness takes it, telling how many tokens it was given."""
    from lm_eval.models.huggingface import HFLM

    class Counting(HFLM):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(pretrained=model, tokenizer=tokenizer, batch_size=_BATCH_SIZE)
            self._tokens = 0
            self._told = -math.inf

        def _count(self, tokens: Tensor) -> None:
            self._tokens += tokens.numel()
            if time.monotonic() - self._told >= _REPORT_SECONDS:
                advance(self._tokens)
                self._tokens, self._told = 0, time.monotonic()

        def _model_call(self, inps: Tensor, *args: Any, **kwargs: Any) -> Any:
            self._count(inps)
            return super()._model_call(inps, *args, **kwargs)

        def _model_generate(self, context: Tensor, *args: Any, **kwargs: Any) -> Any:
            self._count(context)
            return super()._model_generate(context, *args, **kwargs)

    return Counting()
