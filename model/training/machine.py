"""What this machine is fast in, and what its memory wants to be told."""

from __future__ import annotations

import ctypes
import platform

import torch


def fast_in_bf16(device: torch.device) -> bool:
    """Whether bfloat16 pays: GPUs since Ampere, CPUs with instructions for it."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability()[0] >= 8
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            flags = file.read()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def keep_freed_memory() -> None:
    """Let glibc, where there is one, keep what a step frees, as the next step needs as much again:
    to give it back and to have it zeroed anew took a seventh of a step on a CPU."""
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    trim_threshold, mmap_threshold = -1, -3
    mallopt(mmap_threshold, 32 << 20)
    mallopt(trim_threshold, 2**31 - 1)
