"""The libraries of PyTorch that must be loaded before rclpy, where PyTorch itself may be loaded later."""

from __future__ import annotations

import ctypes
import importlib.util
import platform
from contextlib import suppress
from pathlib import Path

from deal_core.isolated_python import is_installed

_ARM = ("aarch64", "arm64")
_BUNDLED = ("torch/lib/libgomp*.so*", "torch.libs/libgomp*.so*")


def reserve_for_torch() -> None:
    """Load OpenMP, which PyTorch brings, without PyTorch; does nothing where PyTorch is not installed.

    OpenMP needs static thread-local storage. On ARM there is little of it, rclpy and its libraries take it, and PyTorch
    would later fail with "cannot allocate memory in static TLS block".
    """
    if platform.machine() not in _ARM:
        return
    for library in openmp_libraries():
        with suppress(OSError):  # PyTorch will tell what is wrong with it
            ctypes.CDLL(library)


def openmp_libraries() -> list[str]:
    """Return the OpenMP libraries that the installed PyTorch may load; [] without PyTorch."""
    bundled: list[str] = []
    found = importlib.util.find_spec("torch") if is_installed("torch") else None
    for folder in (found.submodule_search_locations or ()) if found else ():
        bundled += [str(file) for pattern in _BUNDLED for file in sorted(Path(folder).parent.glob(pattern))]
    return [*bundled, "libgomp.so.1"] if found else []
