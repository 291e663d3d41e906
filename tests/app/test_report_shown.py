"""A report as people read it: at the command line, and on the model card."""

import pytest
import yaml
from rich.console import Console

from app.cli.render import report_tables
from app.examples import BLOCK_TRAINING, REPORT
from eggs_core.card import model_card
from eggs_core.report import Report

SKIPPED = {"error_before": None, "error_after": None, "epochs": 0, "skipped": "too-few-batches"}
TRAINING = [
    BLOCK_TRAINING,
    BLOCK_TRAINING | {"block": 1, "error_before": 0.0323, "error_after": 0.0107},
    BLOCK_TRAINING | {"block": 2} | SKIPPED,
]


def shown(report: Report) -> str:
    with (console := Console(width=200)).capture() as printed:
        console.print(report_tables(report))
    return printed.get()


def value(text: str, name: str) -> str:
    """In the row of this name."""
    (line,) = (line for line in text.splitlines() if line.startswith(f"│ {name} "))
    return line.strip("│ ").removeprefix(name).strip("│ ")


def test_every_figure_of_a_text_is_told_with_its_interval() -> None:
    text = shown(Report.model_validate(REPORT))
    assert value(text, "Perplexity, pruned") == "130.10  (118.90 to 142.50)"
    assert value(text, "KL divergence") == "1.8700 nats a token  (1.7900 to 1.9500)"
    assert value(text, "Same likeliest token") == "45.0% of tokens  (44.0% to 46.0%)"
    card = model_card(Report.model_validate(REPORT))
    assert "| 6.380 (6.110 to 6.660) | 1.8700 (1.7900 to 1.9500) | 45.0% (44.0% to 46.0%) |" in card
    assert "95% bootstrap intervals" in card


@pytest.mark.parametrize(
    ("reference", "revision", "base_model", "name"),
    [
        ("org/model", "0" * 40, "org/model", "org/model"),
        ("smollm2-135m-instruct", None, "HuggingFaceTB/SmolLM2-135M-Instruct", None),
        ("/home/me/secret/llama", None, None, "llama"),
        ("secret/llama", None, None, "llama"),
        ("s3://secret/llama/", None, None, "llama"),
    ],
)
def test_a_card_names_its_base_model_as_the_hub_does_and_no_path(
    reference: str, revision: str | None, base_model: str | None, name: str | None
) -> None:
    model = REPORT["model"] | {"reference": reference, "revision": revision}
    card = model_card(Report.model_validate(REPORT | {"model": model}))
    assert yaml.safe_load(card.split("---\n")[1]).get("base_model") == base_model
    assert f"# {name or base_model}, pruned" in card
    assert "secret" not in card


def test_the_training_of_blocks_is_told_in_the_mean() -> None:
    text = shown(Report.model_validate(REPORT | {"training": TRAINING}))
    assert value(text, "Blocks trained") == "2"
    assert value(text, "Error of their outputs, before") == "0.0223"
    assert value(text, "After") == "0.0097"
    for training in ([], [TRAINING[2]]):
        assert "Blocks trained" not in shown(Report.model_validate(REPORT | {"training": training}))
