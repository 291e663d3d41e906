"""What a worker's machine has to compute with, told without torch, which would cost an idle worker its memory."""

import ctypes
import os
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import psutil

_NAME_BYTES = 256


@dataclass(frozen=True, slots=True)
class Machine:
    """Processors, memory in bytes, and the GPUs that torch would use."""

    cpus: int
    memory_bytes: int
    gpus: tuple[str, ...]
    gpu_memory_bytes: int


def look() -> Machine:
    """As it is now. Not for a process that forks others: they could not use the GPU any more."""
    gpus = _gpus()
    return Machine(
        cpus=os.cpu_count() or 1,
        memory_bytes=psutil.virtual_memory().total,
        gpus=tuple(name for name, _ in gpus),
        gpu_memory_bytes=sum(memory for _, memory in gpus),
    )


def _gpus() -> list[tuple[str, int]]:
    """Names and memory in bytes of the GPUs that CUDA's driver shows, none where torch is built for the CPU alone.

    The functions are those of https://docs.nvidia.com/cuda/cuda-driver-api/group__CUDA__DEVICE.html.
    """
    try:
        if version("torch").endswith("+cpu"):
            return []
        driver = ctypes.CDLL("libcuda.so.1")
    except (PackageNotFoundError, OSError):
        return []
    count = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return []
    found = []
    for ordinal in range(count.value):
        device, memory = ctypes.c_int(), ctypes.c_size_t()
        name = ctypes.create_string_buffer(_NAME_BYTES)
        driver.cuDeviceGet(ctypes.byref(device), ordinal)
        driver.cuDeviceGetName(name, _NAME_BYTES, device)
        driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
        found.append((name.value.decode(errors="replace"), memory.value))
    return found
