"""Tasks of lm-evaluation-harness, from files of our own: the real harness, no network."""

import errno
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import lm_eval
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from eggs_core import whole
from eggs_core.errors import Cancelled, NotEnoughMemory, TaskNotAllowed, TaskNotFound
from eggs_core.pipeline import prune
from eggs_core.progress import ProgressEvent
from eggs_core.report import Report
from eggs_core.spec import CalibrationSpec, EvaluationSpec, PruneSpec
from eggs_core.tasks import TaskSuite
from tests.tiny_models import MakeModel

SHORT = {"samples": 2, "sequence_length": 48}
QUESTIONS = [
    {"question": f"What follows {i}?", "answers": [str(i + 1), str(i + 7), "nothing"], "right": i % 3}
    for i in range(20)
]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "tasks"
    folder.mkdir()
    return folder


def write_task(folder: Path, name: str = "quiz", **changes: Any) -> str:
    """A multiple-choice task with its data; the reference to its file."""
    (folder / "quiz.jsonl").write_text("".join(json.dumps(question) + "\n" for question in QUESTIONS))
    task = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "quiz.jsonl")}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{answers}}",
        "doc_to_target": "right",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(task | changes))
    return f"file:{file}"


def spec_for(model: Path, *tasks: str, **options: Any) -> PruneSpec:
    evaluation = EvaluationSpec(tasks=tasks, generations=0, **SHORT | options)
    return PruneSpec(model=str(model), calibration=CalibrationSpec(**SHORT), evaluation=evaluation)


def accuracy(model: Path) -> float:
    """Of the likeliest answers to the quiz, one forward each."""
    tokenizer, loaded = AutoTokenizer.from_pretrained(model), AutoModelForCausalLM.from_pretrained(model).eval()
    right = 0
    for question in QUESTIONS:
        prompt = tokenizer(question["question"]).input_ids
        scores = []
        for answer in question["answers"]:
            ids = torch.tensor([tokenizer(f"{question['question']} {answer}").input_ids])
            assert ids[0, : len(prompt)].tolist() == prompt
            with torch.no_grad():
                log = loaded(ids).logits[0, :-1].log_softmax(-1)
            scores.append(log.gather(1, ids[0, 1:, None])[len(prompt) - 1 :].sum().item())
        right += scores.index(max(scores)) == question["right"]
    return right / len(QUESTIONS)


def test_a_task_file_is_run_on_both_models(make_model: MakeModel, folder: Path, tmp_path: Path) -> None:
    model = make_model("llama")
    events: list[ProgressEvent] = []
    spec = spec_for(model, write_task(folder))
    report = prune(spec, tmp_path / "out", cache_dir=tmp_path, task_roots=[folder], progress=events.append)
    assert report.evaluation is not None
    (result,) = report.evaluation.tasks
    assert (result.name, result.metric, result.examples) == ("quiz", "acc", 20)
    assert (result.dense, result.pruned) == (accuracy(model), accuracy(tmp_path / "out"))
    assert result.dense_stderr is not None
    assert Report.model_validate_json((tmp_path / "out" / "report.json").read_text()) == report
    assert "lm_eval" in report.versions
    fractions = [event.fraction for event in events]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1
    assert any(event.message == "Evaluating dense, tasks" for event in events)


def test_a_limit_and_a_group(make_model: MakeModel, folder: Path, tmp_path: Path) -> None:
    write_task(folder, "first")
    write_task(folder, "second")
    group = folder / "both.yaml"
    total = {"metric": "acc", "aggregation": "mean", "weight_by_size": True}
    group.write_text(
        yaml.safe_dump({"group": "both", "task": ["first", "second"], "aggregate_metric_list": [total]})
    )
    spec = spec_for(make_model("llama"), f"file:{group}", task_limit=5)
    report = prune(spec, tmp_path / "out", cache_dir=tmp_path)
    assert report.evaluation is not None
    assert {r.name: r.examples for r in report.evaluation.tasks} == {"first": 5, "second": 5, "both": 10}


def test_a_model_left_dense_scores_the_same(make_model: MakeModel, folder: Path, tmp_path: Path) -> None:
    """Loaded tasks are used twice, and keep nothing of the first time."""
    spec = spec_for(make_model("llama"), write_task(folder, num_fewshot=2, fewshot_split="test"))
    report = prune(spec.model_copy(update={"ignore": ("*",)}), tmp_path / "out", cache_dir=tmp_path)
    assert report.evaluation is not None
    (result,) = report.evaluation.tasks
    assert (result.dense, result.dense_stderr) == (result.pruned, result.pruned_stderr)


def test_tasks_can_be_stopped(make_model: MakeModel, folder: Path, tmp_path: Path) -> None:
    def stop(event: ProgressEvent) -> None:
        if event.message == "Evaluating dense, tasks":
            raise Cancelled

    with pytest.raises(Cancelled):
        prune(
            spec_for(make_model("llama"), write_task(folder)), tmp_path / "out", cache_dir=tmp_path, progress=stop
        )


def test_a_task_that_does_not_fit_its_data(make_model: MakeModel, folder: Path, tmp_path: Path) -> None:
    """Templates are filled in when the task is run."""
    right = "{{right if right < 2 else answers.missing.too}}"
    spec = spec_for(make_model("llama"), write_task(folder, doc_to_target=right))
    with pytest.raises(TaskNotFound, match=r"fails while it runs \(UndefinedError\)"):
        prune(spec, tmp_path / "out", cache_dir=tmp_path)


@pytest.mark.parametrize(
    ("error", "expected"),
    [(OSError(errno.ENOSPC, "full"), OSError), (torch.OutOfMemoryError("CUDA out of memory"), NotEnoughMemory)],
)
def test_a_machine_that_is_full_is_no_fault_of_the_task(
    error: Exception,
    expected: type[Exception],
    make_model: MakeModel,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(lm_eval, "simple_evaluate", fail)
    with pytest.raises(expected):
        prune(spec_for(make_model("llama"), write_task(folder)), tmp_path / "out", cache_dir=tmp_path)


def test_what_stops_tasks_is_passed_on(make_model: MakeModel, folder: Path, tmp_path: Path) -> None:
    """As it is, though it were an error that the harness knows."""

    def stop(_: int) -> None:
        raise KeyError("stopped")

    model = make_model("llama")
    suite = TaskSuite([write_task(folder)], None, None, allow_hub=False)
    with pytest.raises(KeyError, match="stopped"):
        suite.run(AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model), stop)


def test_tasks_that_cannot_be_run_are_refused_before_any_work(
    make_model: MakeModel, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model("llama")

    def refused(error: type[Exception], message: str, *tasks: str, **options: Any) -> None:
        with pytest.raises(error, match=message):
            prune(spec_for(model, *tasks), tmp_path / "out", cache_dir=tmp_path, **options)
        assert not (tmp_path / "out").exists(), "work was done"

    quiz = write_task(folder)
    refused(TaskNotFound, "Did you mean .*hellaswag", "helaswag")
    refused(TaskNotFound, "is not a task", "no such task")
    refused(TaskNotFound, "does not use", "hellaswag", allow_hub=False)
    refused(TaskNotFound, "Give an existing .yaml file", f"file:{folder / 'missing.yaml'}")
    refused(TaskNotFound, "Give an existing .yaml file", f"file:{folder / 'quiz.jsonl'}")
    (folder / "broken.yaml").write_text("task: [")
    refused(TaskNotFound, "holds no task or group", f"file:{folder / 'broken.yaml'}")
    refused(TaskNotFound, "EGGS_TASK_ROOTS", quiz, task_roots=[tmp_path / "elsewhere"])
    refused(
        TaskNotFound, "cannot be loaded", write_task(folder, "lost", dataset_kwargs={"data_files": "/none.jsonl"})
    )
    refused(TaskNotFound, "cannot be loaded", write_task(folder, "odd", test_split="none"))
    refused(TaskNotAllowed, "runs code that the model writes", write_task(folder, "unsafe", unsafe_code=True))
    fetched = [{"metric": "rouge", "aggregation": "mean", "higher_is_better": True}]
    refused(TaskNotAllowed, "fetched as code", write_task(folder, "fetching", metric_list=fetched))
    monkeypatch.setattr(whole, "_HEADROOM", 1e9)  # as if the model were a thousand million times as large
    refused(NotEnoughMemory, "memory are free", quiz)


def test_without_the_harness_the_extra_is_named() -> None:
    program = (
        "import sys; sys.modules['lm_eval'] = None\n"
        "from eggs_core.errors import TasksNotInstalled\n"
        "from eggs_core.tasks import TaskSuite\n"
        "try: TaskSuite(['hellaswag'], None, None, allow_hub=True)\n"
        "except TasksNotInstalled as error: print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "extra `tasks`" in run.stdout
