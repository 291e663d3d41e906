"""The model card that goes with a pruned checkpoint."""

import json

from eggs_core.report import Report


def model_card(report: Report) -> str:
    """README.md in the form the Hugging Face Hub reads. Holds no times, so that it repeats to the byte."""
    quality = ""
    if report.perplexity is not None and report.evaluation is not None:
        p = report.perplexity
        quality = (
            "\n## What was lost\n\n"
            f"Perplexity on {report.evaluation.windows} windows of {report.evaluation.sequence_length} tokens of "
            f"`{report.evaluation.source}`:\n\n"
            "| dense | pruned | ratio |\n|---|---|---|\n"
            f"| {p.dense:.3f} | {p.pruned:.3f} | {p.ratio:.3f} |\n"
        )
    notes = "".join(f"- {note}\n" for note in report.notes)
    return f"""---
base_model: {json.dumps(report.model.reference)}
library_name: transformers
pipeline_tag: text-generation
tags: [pruned, sparse, "{report.pattern}", eggs]
---

# {report.model.reference}, pruned to {report.pattern}

Pruned by eggs {report.versions["eggs"]} with method `{report.method}`: of every {report.pattern.m} consecutive
input channels each row keeps {report.pattern.n} weights. {report.sparsity.model:.1%} of all weights are zero,
{report.sparsity.pruned_layers:.1%} of those in the pruned layers. Every input channel of a pruned layer keeps at
least {report.expansion.min_input_degree} edges, {report.expansion.mean_input_degree:.1f} on average.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("PATH")
tokenizer = AutoTokenizer.from_pretrained("PATH")
```
{quality}
## How it was made

- Calibrated on {report.calibration.windows} windows of {report.calibration.sequence_length} tokens of
  `{report.calibration.source}`, seed {report.calibration.seed}.
- `report.json` has the request that repeats it, the figures of every layer, and the versions used;
  `SHA256SUMS` the checksums of all files.
{notes}
"""
