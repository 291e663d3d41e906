"""One layer at batch 1: packed against the best dense product, torch's, and a plain read of memory.

    python -m benchmarks.layers [--rounds 15]

Weights in bfloat16, as (C_out, C_in) 4096×4096 and 11008×4096 and 4096×11008. Each product has a different copy of
its weights every time, all copies larger together than the last cache, as the layers of a model are. Medians of
rounds in which every product takes its turn; needs gcc and a processor with AVX-512 and BF16, or AVX2.
"""

import argparse
import ctypes
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.results import keep, of_processor
from eggs_core import kernels
from eggs_core.masks import top_n_mask
from eggs_core.packing import pack
from eggs_core.pattern import NMPattern

SHAPES = ((4096, 4096), (11008, 4096), (4096, 11008))
PATTERNS = ("2:4", "4:8", "1:4", "8:16")
# More than any last cache, which some processors share with machines beside this one.
COPIES_BYTES = 1 << 30
SOURCE = Path(__file__).with_name("dense_kernels.c")

Parts = list[tuple[Tensor, Tensor]]
Product = Callable[[int], object]
"""A product with copy number i of its weights."""


def built(folder: Path) -> ctypes.CDLL:
    """The dense kernels, for this processor."""
    library = folder / "dense_kernels.so"
    flags = ["-O3", "-march=native", "-fopenmp", "-shared", "-fPIC"]
    subprocess.run(["gcc", *flags, str(SOURCE), "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


def milliseconds(work: Product, copies: int) -> float:
    """Of one product, the mean over all copies."""
    started = time.perf_counter()
    for copy in range(copies):
        work(copy)
    return (time.perf_counter() - started) / copies * 1e3


def medians(works: dict[str, tuple[Product, int]], rounds: int) -> dict[str, float]:
    """Of each work, with its number of copies, in milliseconds."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, (work, copies) in works.items():
            times[name].append(milliseconds(work, copies))
    return {name: statistics.median(values) for name, values in times.items()}


def sparse(shape: tuple[int, int], pattern: NMPattern, generator: torch.Generator) -> Tensor:
    W = torch.randn(shape, generator=generator).bfloat16()
    return W.masked_fill_(~top_n_mask(W.float().abs(), pattern), 0)


def one_token(shape: tuple[int, int], library: ctypes.CDLL, rounds: int) -> list[dict[str, object]]:
    """Rows of the table of one shape."""
    rows, columns = shape
    threads = torch.get_num_threads()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, columns, generator=generator).bfloat16()
    y = torch.empty(rows)
    copies = -(-COPIES_BYTES // (2 * rows * columns))
    dense = [sparse(shape, NMPattern(2, 4), generator) for _ in range(copies)]
    memory = torch.cat([W.view(torch.uint8).flatten() for W in dense])
    size = 2 * rows * columns
    args = rows, columns
    arguments = [ctypes.c_int64(number) for number in args]

    def by_kernel(copy: int) -> None:
        addresses = [ctypes.c_void_p(t.data_ptr()) for t in (dense[copy], x, y)]
        library.dense(*addresses, *arguments, ctypes.c_int(threads))

    def read(copy: int) -> None:
        address = ctypes.c_void_p(memory.data_ptr() + copy * size)
        library.read_all(address, ctypes.c_int64(size), ctypes.c_int(threads))

    by_kernel(0)
    torch.testing.assert_close(y[None], x.float() @ dense[0].float().T, rtol=1e-2, atol=1e-1)
    works: dict[str, tuple[Product, int]] = {
        "read of the dense bytes": (read, copies),
        "dense kernel": (by_kernel, copies),
        "F.linear": (lambda copy: nn.functional.linear(x, dense[copy]), copies),
    }
    bytes_of = dict.fromkeys(works, size)
    for pattern in map(NMPattern.parse, PATTERNS):
        parts = [pack(dense[0] if str(pattern) == "2:4" else sparse(shape, pattern, generator), pattern)]
        bytes_of[f"packed {pattern}"] = sum(part.nbytes for part in parts[0])
        packed = -(-COPIES_BYTES // bytes_of[f"packed {pattern}"])
        parts += [(parts[0][0].clone(), parts[0][1].clone()) for _ in range(packed - 1)]

        def product(copy: int, parts: Parts = parts, pattern: NMPattern = pattern) -> Tensor:
            return kernels.linear(x, *parts[copy], None, pattern)

        works[f"packed {pattern}"] = product, packed
    taken = medians(works, rounds)
    return [
        {
            "C_out × C_in": f"{rows} × {columns}",
            "product": name,
            "ms": value,
            "GB/s": bytes_of[name] / value / 1e6,
            "faster than the dense kernel": taken["dense kernel"] / value,
            "faster than F.linear": taken["F.linear"] / value,
        }
        for name, value in taken.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        library = built(Path(folder))
        table = [row for shape in SHAPES for row in one_token(shape, library, arguments.rounds)]
    command = f"python -m benchmarks.layers --rounds {arguments.rounds}"
    keep(of_processor("layers"), command, table, "Medians, one token.")


if __name__ == "__main__":
    main()
