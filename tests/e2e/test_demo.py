"""The README's first command, on the real language model, with less text than `make demo` takes."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from eggs_core.report import Report

TOP_LEVEL = {
    "schema_version",
    "model",
    "method",
    "pattern",
    "min_degree",
    "evaluation",
    "sparsity",
    "bytes",
    "seconds",
}

# Settings of a service that the demo must leave alone.
ELSEWHERE = {
    "EGGS_DATABASE_URL": "postgresql+psycopg://eggs@127.0.0.1:1/eggs",
    "EGGS_BROKER_URL": "redis://127.0.0.1:1/0",
    "EGGS_QUEUE_NAME": "elsewhere",
    "EGGS_MODEL_ROOTS": "/nowhere",
    "EGGS_HOST": "192.0.2.1",
    "EGGS_MAX_ATTEMPTS": "many",
}


@pytest.mark.timeout(1200)  # on a busy machine
def test_demo(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    arguments = ["--effort", "fast", "--samples", "4", "--evaluation-samples", "2", "--sequence-length", "256"]
    command = [sys.executable, "-m", "app.cli", "demo", "--data-dir", str(data_dir), *arguments]
    environment = os.environ | ELSEWHERE
    run = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1100, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "all verified" in run.stdout
    assert "Perplexity, pruned" in run.stdout
    assert "s left" in run.stdout

    content = json.loads((tmp_path / "demo-report.json").read_text())
    assert content.keys() >= TOP_LEVEL
    report = Report.model_validate(content)
    assert report.evaluation is not None
    perplexity = report.evaluation.texts[0].perplexity
    assert 1 < perplexity.dense < perplexity.pruned
    assert report.sparsity.pruned_layers == pytest.approx(0.5, abs=1e-3)
    assert len(report.layers) == 30 * 7
    assert report.expansion.min_input_degree >= report.min_degree > 0

    (folder,) = (data_dir / "downloads").iterdir()
    for line in (folder / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    assert model.generate(**prompt, max_new_tokens=4, do_sample=False).shape[1] == prompt.input_ids.shape[1] + 4

    assert {path.name for path in tmp_path.iterdir()} == {"data", "demo-report.json"}
    left = [p for p in psutil.process_iter(["cmdline", "environ"]) if str(tmp_path) in str(p.info)]
    assert not left, "the demo left processes behind"
