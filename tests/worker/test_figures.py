"""Reports as trackers show them."""

import copy

from app.examples import REPORT
from eggs_core.report import Report
from worker.trackers.figures import distinct, figures, provenance


def test_texts_whose_names_no_tracker_tells_apart_keep_their_figures() -> None:
    made = copy.deepcopy(REPORT)
    (text, *_) = made["evaluation"]["texts"]
    sources = ["file:日本語.txt", "file:中文.txt", "file:a/b.txt", "file:a b.txt"]
    made["evaluation"]["texts"] = [
        text | {"text": text["text"] | {"source": source, "fingerprint": source}} for source in sources
    ]
    for other in made["evaluation"]["compared"]:
        other["perplexities"] = [2.0] * len(sources)
    report = Report.model_validate(made)
    assert len([name for name in figures(report) if name.endswith("/kl_divergence")]) == len(sources)
    assert {name: value for name, value in provenance(report).items() if name.startswith("evaluation")} == {
        f"evaluation.fingerprint.{name}": source
        for name, source in zip(
            ("file-.txt", "file-.txt-2", "file-a-b.txt", "file-a-b.txt-2"), sources, strict=True
        )
    }
    assert distinct(["", "a", "", "a", "a-2"]) == ["2", "a", "3", "a-2", "a-2-2"]
