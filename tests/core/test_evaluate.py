"""What the evaluation measures, held against whole models of transformers and against statistics."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from eggs_core import whole
from eggs_core.checkpoint import Checkpoint
from eggs_core.evaluate import exp_mean, exp_mean_interval, mean_interval, perplexity
from eggs_core.pipeline import prune
from eggs_core.report import Report
from eggs_core.skeleton import Skeleton
from eggs_core.spec import CalibrationSpec, EvaluationSpec, PruneSpec
from eggs_core.text import token_windows
from tests.tiny_models import MakeModel

SHORT = {"samples": 4, "sequence_length": 48}


@pytest.fixture
def story(tmp_path: Path) -> Path:
    file = tmp_path / "story.txt"
    file.write_text("\n".join(f"Line {i} says what the line before it did not say, {i * i}." for i in range(400)))
    return file


def evaluated(model: Path, out: Path, *sources: str, **options: object) -> Report:
    evaluation = EvaluationSpec(sources=sources, **SHORT | options)
    spec = PruneSpec(model=str(model), calibration=CalibrationSpec(**SHORT), evaluation=evaluation)
    return prune(spec, out, cache_dir=out.parent)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "mixtral"])
def test_figures_are_those_of_the_whole_models(
    family: str, make_model: MakeModel, story: Path, tmp_path: Path
) -> None:
    folder = make_model(family)
    report = evaluated(folder, tmp_path / "out", "pydocs", f"file:{story}", samples=5)
    assert report.evaluation is not None
    assert [measured.text.source for measured in report.evaluation.texts] == ["pydocs", f"file:{story}"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    dense, pruned = (AutoModelForCausalLM.from_pretrained(f).eval() for f in (folder, tmp_path / "out"))
    assert report.spec.evaluation is not None
    for spec, measured in zip(report.spec.evaluation.texts, report.evaluation.texts, strict=True):
        tokens = token_windows(spec, "evaluation", tokenizer, text_roots=None, cache_dir=tmp_path)
        with torch.no_grad():
            p, q = (model(input_ids=tokens).logits[:, :-1].double().log_softmax(-1) for model in (dense, pruned))
        nll_p, nll_q = (-log.gather(-1, tokens[:, 1:, None]).mean((1, 2)) for log in (p, q))
        assert measured.perplexity.tokens == 5 * 47
        assert measured.perplexity.dense == pytest.approx(nll_p.mean().exp().item(), rel=1e-4)
        assert measured.perplexity.pruned == pytest.approx(nll_q.mean().exp().item(), rel=1e-4)
        assert measured.perplexity.ratio == pytest.approx((nll_q - nll_p).mean().exp().item(), rel=1e-4)
        assert measured.kl_divergence == pytest.approx((p.exp() * (p - q)).sum(-1).mean().item(), rel=1e-3)
        assert measured.top1_agreement == pytest.approx((p.argmax(-1) == q.argmax(-1)).double().mean().item())
        for interval, scores in (
            (measured.perplexity.pruned_interval, nll_q),
            (measured.perplexity.ratio_interval, nll_q - nll_p),
        ):
            assert interval is not None
            assert (interval.low, interval.high) == pytest.approx(exp_mean_interval(scores), rel=1e-4)
        for interval, scores in (
            (measured.kl_divergence_interval, (p.exp() * (p - q)).sum(-1).mean(1)),
            (measured.top1_agreement_interval, (p.argmax(-1) == q.argmax(-1)).double().mean(1)),
        ):
            assert interval is not None
            assert (interval.low, interval.high) == pytest.approx(mean_interval(scores), rel=1e-3)


def test_a_text_is_measured_the_same_alone_and_in_company(
    make_model: MakeModel, story: Path, tmp_path: Path
) -> None:
    folder = make_model("llama")
    together = evaluated(folder, tmp_path / "together", "pydocs", f"file:{story}").evaluation
    alone = evaluated(folder, tmp_path / "alone", f"file:{story}").evaluation
    assert together is not None
    assert alone is not None
    assert together.texts[1].text == alone.texts[0].text
    assert together.texts[1].perplexity.pruned == pytest.approx(alone.texts[0].perplexity.pruned, rel=1e-5)
    streamed, predicted = perplexity(
        Skeleton(Checkpoint(folder), torch.device("cpu")),
        token_windows(
            EvaluationSpec(sources=(f"file:{story}",), **SHORT).texts[0],
            "evaluation",
            AutoTokenizer.from_pretrained(folder),
            text_roots=None,
            cache_dir=tmp_path,
        ),
    )
    assert (predicted, streamed) == (4 * 47, pytest.approx(alone.texts[0].perplexity.dense, rel=1e-5))


def test_one_window_has_no_interval(make_model: MakeModel, tmp_path: Path) -> None:
    evaluation = evaluated(make_model("llama"), tmp_path / "out", "pydocs", samples=1).evaluation
    assert evaluation is not None
    (text,) = evaluation.texts
    assert (text.perplexity.pruned_interval, text.perplexity.ratio_interval) == (None, None)
    assert (text.kl_divergence_interval, text.top1_agreement_interval) == (None, None)
    assert "| `pydocs` | 1 of 48 tokens |" in (tmp_path / "out" / "README.md").read_text()


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Of 300 samples of 40 windows, 95% less what the percentile interval is known to lack for skewed scores."""
    generator = torch.Generator().manual_seed(0)
    trials, windows = 300, 40
    # Skewed, as the difficulty of windows is: exponential, with mean 1.
    samples = -torch.rand(trials, windows, generator=generator, dtype=torch.float64).log()
    held = 0
    for nll in samples:
        interval = exp_mean_interval(nll)
        assert interval is not None
        assert interval[0] <= exp_mean(nll) <= interval[1]
        held += interval[0] <= math.e <= interval[1]
    assert 0.89 <= held / trials <= 0.97


def test_intervals_repeat_and_are_paired() -> None:
    generator = torch.Generator().manual_seed(1)
    hard = 3 + torch.rand(30, generator=generator, dtype=torch.float64)
    assert exp_mean_interval(hard) == exp_mean_interval(hard.clone())
    low, high = exp_mean_interval(hard + 0.5 - hard)  # type: ignore[misc]
    assert low == pytest.approx(math.exp(0.5))
    assert high == pytest.approx(math.exp(0.5))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_generations_are_greedy_decoding(family: str, make_model: MakeModel, story: Path, tmp_path: Path) -> None:
    folder = make_model(family)
    report = evaluated(folder, tmp_path / "out", "pydocs", f"file:{story}", generations=3)
    assert report.evaluation is not None
    assert report.spec.evaluation is not None
    tokenizer = AutoTokenizer.from_pretrained(folder)
    pydocs, ours = (
        token_windows(spec, "evaluation", tokenizer, text_roots=None, cache_dir=tmp_path)[:, :24]
        for spec in report.spec.evaluation.texts
    )
    prompts = [pydocs[0], ours[0], pydocs[1]]
    for prompt, said in zip(prompts, report.evaluation.generations, strict=True):
        assert said.prompt == tokenizer.decode(prompt)
        for model, text in ((folder, said.dense), (tmp_path / "out", said.pruned)):
            loaded = AutoModelForCausalLM.from_pretrained(model)
            ids = loaded.generate(prompt[None], do_sample=False, max_new_tokens=24, pad_token_id=0)
            assert text == tokenizer.decode(ids[0, 24:], skip_special_tokens=True)
    assert [said.dense for said in report.evaluation.generations] != [
        said.pruned for said in report.evaluation.generations
    ]


def test_a_checkpoints_own_ways_of_generating_are_left_aside(make_model: MakeModel, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(make_model("llama"), folder)
    own = {"do_sample": True, "temperature": 5.0, "repetition_penalty": 9.0, "eos_token_id": 0}
    (folder / "generation_config.json").write_text(json.dumps(own))
    plain = evaluated(make_model("llama"), tmp_path / "plain", "pydocs").evaluation
    strange = evaluated(folder, tmp_path / "strange", "pydocs").evaluation
    assert plain is not None
    assert strange is not None
    assert len(plain.generations) == 3
    assert strange.generations == plain.generations


def test_no_generations_where_none_are_asked_for_or_none_fit(
    make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = evaluated(make_model("llama"), tmp_path / "none", "pydocs", generations=0)
    assert report.evaluation is not None
    assert report.evaluation.generations == []
    assert report.notes == []
    monkeypatch.setattr(whole, "_HEADROOM", 1e9)  # as if the model were a thousand million times as large
    report = evaluated(make_model("llama"), tmp_path / "large", "pydocs")
    assert report.evaluation is not None
    assert report.evaluation.generations == []
    assert report.evaluation.texts[0].kl_divergence > 0
    assert any("no generations" in note and "memory are free" in note for note in report.notes)
