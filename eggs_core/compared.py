"""Models that other methods make of what a job gathers for its own, to be measured and dropped."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from eggs_core.checkpoint import Checkpoint, CheckpointWriter, save
from eggs_core.layers import PrunableLayer
from eggs_core.report import Compared, LayerReport
from eggs_core.skeleton import Skeleton
from eggs_core.solve import PrunedLayer
from eggs_core.spec import PruneSpec
from eggs_core.summary import least_degree, mean_output_error

BlockFigures = dict[str, Any]


class ComparedModel:
    """The model that the method of `spec` makes, as a checkpoint of `shards` in `folder`.

    Layers wait on the disk until their block is whole, so that of all methods no two have a block in memory.
    """

    def __init__(self, spec: PruneSpec, folder: Path, shards: int) -> None:
        self.spec = spec
        self.writer = CheckpointWriter(folder, shards)
        self.seconds = 0.0
        """What the choices of the method have taken."""
        self._waiting = folder / "waiting"
        self._parts = 0
        self._reports: list[LayerReport] = []
        self._reported = 0  # of which so many in the blocks before
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self._waiting, ignore_errors=True)

    def keep(self, pruned: Sequence[PrunedLayer], reports: Sequence[LayerReport]) -> None:
        """Puts layers of the block at hand aside, and their figures."""
        self._waiting.mkdir(exist_ok=True)
        save({entry.layer.name: entry.weights for entry in pruned}, self._waiting / f"{self._parts}.safetensors")
        self._parts += 1
        self._reports += reports

    def write_block(self, skeleton: Skeleton, index: int, layers: Sequence[PrunableLayer]) -> Path:
        """Writes the shard of block `index`, which is loaded and all of whose `layers` were put aside."""
        changed: dict[str, Tensor] = {}
        if layers:
            waiting = Checkpoint(self._waiting)
            for layer in layers:
                name = layer.full_parameter_name
                if name not in changed:  # of which experts that are left dense stay as they are
                    changed[name] = layer.parameter.data.to("cpu", copy=True)
                layer.view(changed[name]).copy_(waiting.read([layer.name])[layer.name])
            shutil.rmtree(self._waiting)
        return self.writer.write(index + 1, skeleton.checkpoint_tensors(index, changed))

    def block_figures(self) -> BlockFigures:
        """What is to be known of the block that was just written where the run is gone on with."""
        reports, self._reported = self._reports[self._reported :], len(self._reports)
        return {"layers": [report.model_dump(mode="json") for report in reports], "seconds": self.seconds}

    def adopt_block(self, index: int, figures: BlockFigures) -> None:
        """Takes up block `index`, which an earlier run has finished."""
        self.writer.adopt(index + 1)
        self._reports += map(LayerReport.model_validate, figures["layers"])
        self._reported = len(self._reports)
        self.seconds = figures["seconds"]

    def figures(self, perplexities: list[float]) -> Compared:
        """What the report says of the method."""
        return Compared(
            method=self.spec.method,
            effort=self.spec.effective_effort,
            min_degree=least_degree(self._reports),
            perplexities=perplexities,
            mean_relative_output_error=mean_output_error(self._reports),
            seconds=round(self.seconds, 3),
        )
