"""Pictures of masks: each pixel is what the packed checkpoint says, whatever the window."""

import json
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Semaphore

import pytest
import torch
from fastapi.testclient import TestClient
from sqlalchemy.orm import Session, sessionmaker
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from app.artifacts.local import LocalStore
from app.examples import REPORT
from app.jobs import leases
from app.jobs.leases import NewArtifact
from app.masks.picture import Window, draw
from app.settings import Settings
from eggs_core.checkpoint import CheckpointWriter
from eggs_core.checksums import sha256
from eggs_core.packing import pack
from eggs_core.packing_config import PackingConfig
from eggs_core.pattern import NMPattern
from eggs_core.pipeline import prune
from eggs_core.spec import PruneSpec
from tests.app.build import make_job
from tests.app.conftest import RunningServer
from tests.app.test_jobs_api import code
from tests.app.test_leases import must_claim
from tests.tiny_models import MakeModel

LAYER = "model.layers.1.mlp.down_proj"
BARE = "model.layers.0.self_attn.q_proj"  # the checkpoint names it without the base model's prefix
SHAPE = (300, 612)


def kept_of(shape: tuple[int, int]) -> Tensor:
    groups = torch.rand(shape[0], shape[1] // 4, 4, generator=torch.Generator().manual_seed(1))
    kept = (groups.argsort(dim=2) < 2).view(shape)
    kept[:, :4] = torch.tensor([False, True, True, False])  # two channels that are cut off
    return kept


@pytest.fixture
def job_id(settings: Settings, sessions: sessionmaker[Session]) -> str:
    """A job with two shards of packed layers, and one layer that is not packed."""
    job_id = make_job(sessions)
    folder = settings.artifacts_dir / f"{job_id}.1" / "packed"
    folder.mkdir(parents=True)
    writer = CheckpointWriter(folder, 2)
    for shard, layer in enumerate((BARE.removeprefix("model."), LAYER)):
        values, mask = pack(kept_of(SHAPE).bfloat16(), NMPattern(2, 4))
        writer.write(shard, {f"{layer}.weight_values": values, f"{layer}.weight_mask": mask})
    writer.finish()
    packing = PackingConfig(
        pattern=NMPattern(2, 4), layers={BARE.removeprefix("model."): "linear", LAYER: "linear"}
    )
    (folder / "config.json").write_text(json.dumps({"quantization_config": packing.written()}))
    (one,) = REPORT["layers"]
    layers = [one | {"name": name, "shape": list(SHAPE)} for name in (BARE, LAYER, "model.layers.1.mlp.dense")]
    artifacts = [NewArtifact(f"packed/{f.name}", f.stat().st_size, sha256(f)) for f in folder.iterdir()]
    lease = must_claim(sessions, job_id)
    report = REPORT | {"layers": layers}
    with sessions.begin() as session:
        leases.succeed(session, lease, report=report, artifacts=artifacts, artifacts_dir=f"{job_id}.1")
    return job_id


def pixels(png: bytes) -> Tensor:
    """The picture (height, width), from the two chunks that hold it."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    width, height, depth, colour = struct.unpack(">IIBB", png[16:26])
    assert (depth, colour) == (8, 0)
    (length,) = struct.unpack(">I", png[33:37])
    rows = torch.frombuffer(bytearray(zlib.decompress(png[41 : 41 + length])), dtype=torch.uint8)
    return rows.view(height, 1 + width)[:, 1:]


def expected(kept: Tensor, row: int, column: int, height: int, width: int, scale: int) -> Tensor:
    window = kept[row : row + height * scale, column : column + width * scale].int()
    bands = [band.sum(dim=0) * 255 // len(band) for band in window.split(scale)]
    return torch.stack([torch.stack([cell.min() for cell in band.split(scale)]) for band in bands])


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(("family", "layers"), [("llama", 14), ("gpt2", 8), ("mixtral", 8)])
def test_masks_are_those_of_the_model_that_was_left(
    client: TestClient,
    settings: Settings,
    sessions: sessionmaker[Session],
    make_model: MakeModel,
    tmp_path: Path,
    family: str,
    layers: int,
) -> None:
    """Whatever the checkpoint calls its layers, and however it stores them; fused experts have none."""
    request = {"model": str(make_model(family)), "method": "magnitude", "evaluation": None}
    request["calibration"] = {"samples": 1, "sequence_length": 16}
    out = settings.artifacts_dir / "place"
    report = prune(PruneSpec.model_validate(request), out, cache_dir=tmp_path / "cache")
    lease = must_claim(sessions, job_id := make_job(sessions, **request))
    files = [NewArtifact(f.relative_to(out).as_posix(), f.stat().st_size, "0" * 64) for f in out.rglob("*.*")]
    with sessions.begin() as session:
        dumped = report.model_dump(mode="json")
        leases.succeed(session, lease, report=dumped, artifacts=files, artifacts_dir=out.name)
    masks = client.get(f"/v1/jobs/{job_id}/masks").json()["data"]
    assert len(masks) == layers
    model = AutoModelForCausalLM.from_pretrained(out)
    for mask in masks:
        layer = model.get_submodule(mask["id"])
        weight = layer.weight.T if isinstance(layer, Conv1D) else layer.weight
        assert mask["shape"] == list(weight.shape)
        assert torch.equal(pixels(client.get(mask["url"]).content) > 0, weight != 0), mask["id"]


def test_masks_are_listed_in_the_order_of_the_report(client: TestClient, job_id: str) -> None:
    page = client.get(f"/v1/jobs/{job_id}/masks").json()
    assert [(mask["id"], mask["shape"]) for mask in page["data"]] == [(BARE, list(SHAPE)), (LAYER, list(SHAPE))]
    for mask in page["data"]:
        assert client.get(mask["url"]).headers["content-type"] == "image/png"


@pytest.mark.parametrize(
    "window",
    [
        (0, 0, 256, 256, 1),
        (7, 13, 50, 9, 1),
        (250, 600, 256, 256, 1),
        (0, 0, 256, 256, 2),
        (3, 5, 11, 13, 7),
        (0, 0, 9, 19, 32),
        (0, 0, 256, 256, 32),
    ],
)
def test_each_pixel_is_what_is_kept(client: TestClient, job_id: str, window: tuple[int, ...]) -> None:
    names = ("row", "column", "height", "width", "scale")
    for layer in (BARE, LAYER):
        answer = client.get(f"/v1/jobs/{job_id}/masks/{layer}", params=dict(zip(names, window, strict=True)))
        assert answer.status_code == 200, answer.text
        assert torch.equal(pixels(answer.content), expected(kept_of(SHAPE), *window).byte())


@pytest.mark.parametrize("pattern", ["1:2", "3:4", "5:8", "3:16", "2:3", "1:1"])
def test_any_pattern_is_drawn(pattern: str) -> None:
    """Of which parities are stored, for N odd and even, or the bits themselves."""
    shape, nm = (37, 624), NMPattern.parse(pattern)
    groups = torch.rand(shape[0], shape[1] // nm.m, nm.m, generator=torch.Generator().manual_seed(1))
    kept = (groups.argsort(dim=2) < nm.n).view(shape)
    _, mask = pack(kept.bfloat16(), nm)
    stored = mask.numpy().tobytes()
    for window in ((0, 0, 37, 256, 1), (5, 70, 20, 256, 1), (3, 9, 9, 100, 4)):
        png = draw(lambda start, length: stored[start : start + length], shape, nm, Window(*window).within(shape))
        assert torch.equal(pixels(png), expected(kept, *window).byte())


def test_masks_of_another_version_are_not_drawn(client: TestClient, job_id: str, settings: Settings) -> None:
    config = settings.artifacts_dir / f"{job_id}.1" / "packed" / "config.json"
    config.write_text(config.read_text().replace('"version": 2', '"version": 1'))
    assert client.get(f"/v1/jobs/{job_id}/masks").json()["data"] == []
    assert client.get(f"/v1/jobs/{job_id}/masks/{LAYER}").status_code == 404


def test_windows_that_are_none(client: TestClient, job_id: str) -> None:
    path = f"/v1/jobs/{job_id}/masks/{LAYER}"
    for outside in ({"row": 300}, {"column": 612}, {"row": 2**31 - 1}):
        answer = client.get(path, params=outside)
        assert (answer.status_code, code(answer)) == (422, "window-outside")
    for wrong in ({"height": 257}, {"width": 0}, {"scale": 33}, {"row": -1}):
        assert code(client.get(path, params=wrong)) == "invalid-request"


def test_what_has_no_mask(
    client: TestClient, job_id: str, settings: Settings, sessions: sessionmaker[Session]
) -> None:
    for layer in ("model.layers.1.mlp.dense", "down_proj", "../packed"):
        answer = client.get(f"/v1/jobs/{job_id}/masks/{layer}")
        assert answer.status_code == 404
    waiting = make_job(sessions)
    assert code(client.get(f"/v1/jobs/{waiting}/masks")) == "report-not-ready"
    dense = make_job(sessions)
    lease = must_claim(sessions, dense)
    with sessions.begin() as session:
        leases.succeed(session, lease, report=REPORT, artifacts=[], artifacts_dir="x")
    assert client.get(f"/v1/jobs/{dense}/masks").json()["data"] == []
    for file in (settings.artifacts_dir / f"{job_id}.1" / "packed").glob("*-00002-*"):
        Path(file).unlink()
    gone = client.get(f"/v1/jobs/{job_id}/masks/{LAYER}")
    assert (gone.status_code, code(gone)) == (410, "artifact-gone")


def test_a_store_that_does_not_answer_holds_up_no_other_request(
    server: RunningServer, job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, answers = Semaphore(0), Event()

    def read(*_: object) -> bytes:
        asked.release()
        answers.wait()
        raise FileNotFoundError

    monkeypatch.setattr(LocalStore, "read", read)
    with server.client() as client, ThreadPoolExecutor(45) as pool:  # requests share 40 threads
        try:
            drawn = [pool.submit(client.get, f"/v1/jobs/{job_id}/masks/{LAYER}") for _ in range(45)]
            for _ in range(8):
                assert asked.acquire(timeout=60)
            assert client.get("/v1/jobs").status_code == 200
        finally:
            answers.set()
        assert {answer.result().status_code for answer in drawn} == {410}
