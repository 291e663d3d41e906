"""Keeps the process as small as what is alive in it, where the C library is glibc, and says when memory ran out.

glibc keeps freed memory in heaps that fragment: with every decoder block that comes and goes they would grow,
although nothing of the block is alive.
"""

import ctypes
import errno
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from eggs_core.errors import NotEnoughMemory

_M_MMAP_THRESHOLD = -3
# Weights of a large model are above it and activations of one batch mostly below: mapping those anew for every
# product costs a third of the speed.
_MAPPED_FROM_BYTES = 4 << 20
_LARGE_PAGE_BYTES = 2 << 20
_MADV_HUGEPAGE = 14
# How torch, safetensors and CUDA's libraries say it, which have no error of their own for it on a CPU.
_RAN_OUT = ("DefaultCPUAllocator", "Cannot allocate memory", "std::bad_alloc", "(os error 12)", "ALLOC_FAILED")


def map_large_tensors() -> None:
    """Lets the C library take large tensors from the system and give them back at once, outside its heaps."""
    _call("mallopt", _M_MMAP_THRESHOLD, _MAPPED_FROM_BYTES)


def give_back() -> None:
    """Returns the freed pages of the heaps to the system."""
    _call("malloc_trim", 0)


def in_large_pages(tensor: Tensor) -> Tensor:
    """Asks Linux for large pages under a tensor that is yet to be written to, and returns it.

    The first write to fresh memory costs more by page than by byte: with large pages a fifth.
    """
    if tensor.device.type == "cpu":
        start = -(-tensor.data_ptr() // _LARGE_PAGE_BYTES) * _LARGE_PAGE_BYTES
        length = tensor.data_ptr() + tensor.nbytes - start
        if length >= _LARGE_PAGE_BYTES:
            _call("madvise", ctypes.c_void_p(start), ctypes.c_size_t(length), _MADV_HUGEPAGE)
    return tensor


@contextmanager
def explained() -> Iterator[None]:
    """Raises `NotEnoughMemory` in place of what a failed allocation raised, and of what was made of that."""
    try:
        yield
    except Exception as error:
        if not ran_out(error):
            raise
        raise NotEnoughMemory(
            "The machine has less memory free than this takes. Ask for fewer samples, shorter sequences or less "
            "effort, or use a machine with more memory."
        ) from error


def ran_out(error: BaseException | None) -> bool:
    """Whether a failed allocation is behind an error."""
    while error is not None:
        if isinstance(error, MemoryError | torch.OutOfMemoryError):
            return True
        if isinstance(error, OSError) and error.errno == errno.ENOMEM:
            return True
        if not isinstance(error, NotEnoughMemory) and any(sign in str(error) for sign in _RAN_OUT):
            return True
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return False


def _call(name: str, *arguments: object) -> None:
    function = getattr(ctypes.CDLL(None), name, None)
    if function is not None:
        function(*arguments)
