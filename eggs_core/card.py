"""The model card that goes with a pruned checkpoint."""

from eggs_core.report import Interval, Report, TextEvaluation
from eggs_core.sources import packaged_from
from eggs_core.spec import OutputFormat


def model_card(report: Report) -> str:
    """README.md in the form the Hugging Face Hub reads.

    Holds no times, so that it repeats to the byte, and of a model that is not on the Hub only a name: whoever
    reads it has no business with paths and buckets.
    """
    published, name = _base_model(report)
    quality = ""
    if report.evaluation is not None:
        rows = "".join(_row(text) for text in report.evaluation.texts)
        quality = (
            "\n## What was lost\n\n"
            "| text | windows | perplexity, dense | pruned | ratio | KL divergence | top-1 agreement |\n"
            f"|---|---|---|---|---|---|---|\n{rows}\n"
            "In parentheses 95% bootstrap intervals over the windows.\n"
        )
    packed = _PACKED if report.spec.output.format is not OutputFormat.DENSE else ""
    notes = "".join(f"- {note}\n" for note in report.notes)
    return f"""---
{published}library_name: transformers
pipeline_tag: text-generation
tags: [pruned, sparse, "{report.pattern}", eggs]
---

# {name}, pruned to {report.pattern}

Pruned by {_code(report)} with method `{report.method}`: of every {report.pattern.m} consecutive
input channels each row keeps {report.pattern.n} weights. {report.sparsity.model:.1%} of all weights are zero,
{report.sparsity.pruned_layers:.1%} of those in the pruned layers. Every input channel of a pruned layer keeps at
least {report.expansion.min_input_degree} edges, {report.expansion.mean_input_degree:.1f} on average.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("PATH")
tokenizer = AutoTokenizer.from_pretrained("PATH")
```
{packed}{quality}
## How it was made

- Base model `{name}`{_revision(report)}, sha256 over config and weights
  `{report.model.fingerprint}`.
- Calibrated on {report.calibration.windows} windows of {report.calibration.sequence_length} tokens of
  `{report.calibration.source}`, seed {report.calibration.seed}, sha256 over their token ids
  `{report.calibration.fingerprint}`.
- `report.json` has the request that repeats it, the figures of every layer, and the versions used;
  `SHA256SUMS` the checksums of all files.
{notes}
"""


_PACKED = """
Where config.json has a `quantization_config`, here or in the folder `packed`, weights are stored without their
zeros, and `import eggs_core` comes first.
"""


def _base_model(report: Report) -> tuple[str, str]:
    """The line of the head for it, which the Hub takes for models of its own alone, and its name."""
    reference = report.model.reference
    on_hub = packaged_from(reference) if report.model.revision is None else reference
    if on_hub is None:
        return "", reference.rstrip("/").rpartition("/")[2]
    return f"base_model: {on_hub}\n", on_hub


def _revision(report: Report) -> str:
    return "" if report.model.revision is None else f" at `{report.model.revision}`"


def _code(report: Report) -> str:
    commit = report.versions.get("eggs_commit")
    return f"eggs {report.versions['eggs']}" + (f" at commit `{commit}`" if commit else "")


def _row(measured: TextEvaluation) -> str:
    text, p = measured.text, measured.perplexity
    divergence = f"{measured.kl_divergence:.4f}{_between(measured.kl_divergence_interval, '.4f')}"
    agreement = f"{measured.top1_agreement:.1%}{_between(measured.top1_agreement_interval, '.1%')}"
    return (
        f"| `{text.source}` | {text.windows} of {text.sequence_length} tokens | {p.dense:.3f} | {p.pruned:.3f} "
        f"| {p.ratio:.3f}{_between(p.ratio_interval, '.3f')} | {divergence} | {agreement} |\n"
    )


def _between(interval: Interval | None, form: str) -> str:
    return "" if interval is None else f" ({interval.low:{form}} to {interval.high:{form}})"
