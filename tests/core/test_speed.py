"""The speed of both forms of a model, as far as it is no matter of time."""

from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from eggs_core.errors import SequenceTooLong
from eggs_core.pipeline import prune
from eggs_core.spec import PruneSpec
from eggs_core.speed import compare_speed
from tests.tiny_models import MakeModel


def test_speed_is_measured_within_the_positions_of_the_model(make_model: MakeModel, tmp_path: Path) -> None:
    text = {"samples": 2, "sequence_length": 48}
    spec = {"model": str(make_model("gpt2")), "method": "ria", "calibration": text}
    evaluation = text | {"speed": True, "generations": 0}
    report = prune(
        PruneSpec.model_validate(spec | {"evaluation": evaluation}), tmp_path / "out", cache_dir=tmp_path
    )
    assert report.evaluation is not None
    for speed in report.evaluation.speed:
        assert (speed.prompt_tokens, speed.new_tokens) == (128 - 128 // 3, 128 // 3)
    with pytest.raises(SequenceTooLong, match="at most 128"):
        compare_speed(*[AutoModelForCausalLM.from_pretrained(tmp_path / "out")] * 2, [1], prompt_tokens=100)
