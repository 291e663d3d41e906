"""What a request wants compared between the dense model and the pruned one, from the first check to the report."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from eggs_core.checkpoint import Checkpoint
from eggs_core.errors import NotEnoughMemory
from eggs_core.evaluate import dense_scores, exp_mean, pruned_scores, window_nll
from eggs_core.report import Evaluation, Generation
from eggs_core.skeleton import Skeleton
from eggs_core.spec import EvaluationSpec
from eggs_core.summary import text_evaluations
from eggs_core.tasks import TOKENS_PER_EXAMPLE, Results, TaskSuite, task_results
from eggs_core.whole import NEW_TOKENS, as_text, check_memory, continuations, prompts_of, whole_model

Advance = Callable[..., None]
"""Called as advance(work, message, **data) after each step, `work` in tokens through one decoder block."""


class Comparison:
    """One evaluation: made before any work is done, then the dense model is measured, then the pruned one.

    windows: of each text of `spec`, (windows, L) int64. Raises `NotEnoughMemory` where there are `tasks` and the
    whole model does not fit.
    """

    def __init__(
        self, spec: EvaluationSpec, windows: list[Tensor], tokenizer: Any, dense: Skeleton, tasks: TaskSuite | None
    ) -> None:
        self._spec = spec
        self._windows = windows
        self._tokens = torch.cat(windows)
        self._tokenizer = tokenizer
        self._dense = dense
        self._blocks = len(dense.blocks)
        self._prompts = prompts_of(windows, spec.generations)
        self._new_tokens = min(NEW_TOKENS, spec.sequence_length - self._prompts.shape[1])
        self.notes: list[str] = []
        """What the report should say of the evaluation."""
        self._tasks = tasks
        if tasks is not None:
            check_memory(dense)
        elif spec.generations:
            self._leave_out_generations_that_do_not_fit()
        self.with_speed = spec.speed
        """Whether the speed is to be measured."""
        if spec.speed:
            self._leave_out_speed_that_does_not_fit()

    def _leave_out_generations_that_do_not_fit(self) -> None:
        """Samples are a courtesy of the report: a model too large for them is pruned and measured all the same."""
        try:
            check_memory(self._dense)
        except NotEnoughMemory as error:
            self._prompts = self._prompts[:0]
            self.notes.append(f"There are no generations. {error}")

    def _leave_out_speed_that_does_not_fit(self) -> None:
        try:
            check_memory(self._dense, models=2)
        except NotEnoughMemory as error:
            self.with_speed = False
            self.notes.append(f"The speed was not measured. {error}")

    @property
    def work(self) -> int:
        """Of measuring one model, in tokens through one decoder block."""
        return self.perplexity_work + self._generation_work + self._task_work

    @property
    def perplexity_work(self) -> int:
        """Of its perplexity alone."""
        return self._blocks * self._tokens.numel()

    @property
    def _generation_work(self) -> int:
        return self._blocks * len(self._prompts) * (self._prompts.shape[1] + self._new_tokens)

    @property
    def _task_work(self) -> int:
        return 0 if self._tasks is None else self._blocks * self._tasks.examples * TOKENS_PER_EXAMPLE

    def measure_dense(self, advance: Advance) -> None:
        """Measures the dense model. Raises what `advance` raises, as all that follows does."""
        self._of_dense = dense_scores(self._dense, self._tokens, self._on_block(advance))
        self._said_by_dense, self._results_of_dense = self._whole(self._dense.checkpoint, advance)

    def perplexities(self, pruned: Checkpoint, advance: Advance) -> list[float]:
        """A pruned model's perplexity on each text, and nothing else of it."""
        nll = window_nll(Skeleton(pruned, self._dense.device), self._tokens, self._on_block(advance))
        return [exp_mean(of_text) for of_text in nll.split([len(tokens) for tokens in self._windows])]

    def measure_pruned(self, pruned: Checkpoint, advance: Advance) -> Evaluation:
        """Measures the pruned model and compares it with the dense one."""
        skeleton = Skeleton(pruned, self._dense.device)
        of_pruned = pruned_scores(skeleton, self._tokens, self._of_dense, self._on_block(advance))
        said_by_pruned, results = self._whole(pruned, advance)
        said = zip(as_text(self._prompts, self._tokenizer), self._said_by_dense, said_by_pruned, strict=True)
        return Evaluation(
            texts=text_evaluations(self._spec.texts, self._windows, self._of_dense, of_pruned),
            repeats=[],
            generations=[Generation(prompt=p, dense=dense, pruned=pruned) for p, dense, pruned in said],
            tasks=task_results(self._results_of_dense, results) if self._tasks is not None else [],
        )

    def _on_block(self, advance: Advance) -> Callable[[int], None]:
        def on_block(index: int) -> None:
            message = f"block {index + 1} of {self._blocks}"
            advance(self._tokens.numel(), message, block=index, blocks=self._blocks)

        return on_block

    def _whole(self, checkpoint: Checkpoint, advance: Advance) -> tuple[list[str], Results]:
        """What takes the whole model: its continuations of the prompts, and the results of the tasks."""
        texts: list[str] = []
        results: Results = {}
        if len(self._prompts) or self._tasks is not None:
            with whole_model(checkpoint, self._dense, self._tokenizer) as model:
                if len(self._prompts):
                    texts = continuations(model, self._prompts, self._new_tokens, self._tokenizer)
                    advance(self._generation_work, "generations")
                if self._tasks is not None:
                    results = self._run_tasks(self._tasks, model, advance)
        return texts, results

    def _run_tasks(self, tasks: TaskSuite, model: Any, advance: Advance) -> Results:
        left = self._task_work

        def on_tokens(tokens: int) -> None:
            nonlocal left
            work = min(self._blocks * tokens, left)
            left -= work
            advance(work, "tasks")

        results = tasks.run(model, self._tokenizer, on_tokens)
        advance(left, "tasks")
        return results
