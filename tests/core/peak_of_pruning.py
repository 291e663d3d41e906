"""Prints by how many bytes pruning one layer raises the memory of a process, see test_memory.py.

    python -m tests.core.peak_of_choosing ROWS COLUMNS CHANGES

CHANGES are what a PruneSpec is to have, as JSON.
"""

import json
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from eggs_core.layers import prunable_layers
from eggs_core.memory import map_large_tensors
from eggs_core.solve import needs_gram, prune_layers
from eggs_core.spec import PruneSpec
from eggs_core.statistics import gather


def prune(rows: int, X: Tensor, spec: PruneSpec) -> None:
    """Prunes a layer (rows, C_in) that reads X (tokens, C_in)."""
    block = nn.Sequential(nn.Linear(X.shape[1], rows, bias=False, dtype=X.dtype))
    layers = prunable_layers(block, "block", ())
    with gather(layers, len(X), int(needs_gram(spec))) as statistics:
        block(X)
    prune_layers(layers, 0, statistics["block.0"], spec)


def kibibytes(name: str) -> int:
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith(f"{name}:")).split()[1])


@torch.no_grad()
def main() -> None:
    rows, columns = map(int, sys.argv[1:3])
    spec = PruneSpec(model="none", **json.loads(sys.argv[3]))
    torch.set_num_threads(1)
    map_large_tensors()
    prune(64, torch.randn(512, 256, dtype=torch.bfloat16), spec)  # after which every library is in memory
    X = torch.randn(2048, columns, dtype=torch.bfloat16)
    before = kibibytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    prune(rows, X, spec)
    print((kibibytes("VmHWM") - before) * 1024)


if __name__ == "__main__":
    main()
