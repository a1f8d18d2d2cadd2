"""The choice of a back end, by the options and by what this machine has, with a reason."""

from __future__ import annotations

import importlib.util
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, get_args

from deal_core.errors import UsageError

BackendName = Literal["auto", "torch", "onnxruntime", "tensorrt"]
Precision = Literal["auto", "float32", "float16", "bfloat16"]

INSTALL_HINT = "pip install 'deal_ros[export]'"


@dataclass(frozen=True)
class Wanted:
    """The options of a person.

    Args:
        backend: "auto", "torch", "onnxruntime" or "tensorrt".
        device: "auto" or a device that exists.
        precision: "auto", "float32", "float16" or "bfloat16".
        is_onnx: whether the model file is an .onnx file.
        compile: whether PyTorch compiles the network.
    """

    backend: str = "auto"
    device: str = "auto"
    precision: str = "auto"
    is_onnx: bool = False
    compile: bool = False


@dataclass(frozen=True)
class Here:
    """What this machine has.

    Args:
        gpu: a GPU that PyTorch can use.
        installed: names of the back ends' modules that can be found.
    """

    gpu: bool
    installed: Collection[str]


@dataclass(frozen=True)
class BackendCandidate:
    """A back end that may be tried, on a device, and why."""

    name: str
    device: str
    reason: str


def look_here() -> Here:
    """Return what this machine has, without importing it."""
    import torch

    modules = [name for name in ("onnxruntime", "tensorrt") if importlib.util.find_spec(name)]
    return Here(torch.cuda.is_available(), frozenset(modules))


def candidates(wanted: Wanted, here: Here) -> list[BackendCandidate]:
    """Return the back ends to try, best first; one where it was named.

    By capability: TensorRT where there is a GPU, then PyTorch on the GPU; on the CPU ONNX Runtime, then PyTorch.

    Raises:
        UsageError: an unknown name; or the one that was named, or every one, cannot be used.
    """
    if wanted.backend not in get_args(BackendName):
        raise UsageError(f"unknown backend '{wanted.backend}': expected {', '.join(get_args(BackendName))}")
    gpu = wanted.device.startswith("cuda") or (wanted.device == "auto" and here.gpu)
    if wanted.backend != "auto":
        refusal = refuse(wanted.backend, wanted, here)
        if refusal:
            raise UsageError(f"backend '{wanted.backend}' cannot be used: {refusal}")
        return [
            BackendCandidate(
                wanted.backend, _device(wanted.backend, wanted, gpu), f"backend {wanted.backend} was named"
            )
        ]
    found: list[BackendCandidate] = []
    passed_over: list[str] = []
    for name in ("tensorrt", "torch", "onnxruntime") if gpu else ("onnxruntime", "torch"):
        refusal = refuse(name, wanted, here)
        if refusal:
            passed_over.append(f"not {name}: {refusal}")
        else:
            device = _device(name, wanted, gpu)
            found.append(BackendCandidate(name, device, "; ".join((f"the fastest for {device} here", *passed_over))))
    if not found:
        raise UsageError(f"no backend can run this: {'; '.join(passed_over)}")
    return found


def refuse(name: str, wanted: Wanted, here: Here) -> str:
    """Return why a back end cannot do what is wanted, or an empty string."""
    if name == "torch":
        return "it reads the .safetensors file, not an .onnx file" if wanted.is_onnx else ""
    if wanted.compile:
        return "compile is an option of torch alone"
    if name not in here.installed:
        return (
            f"the package {name} is not installed ({INSTALL_HINT if name == 'onnxruntime' else 'pip install ' + name})"
        )
    if name == "onnxruntime":
        if wanted.device not in ("auto", "cpu"):
            return f"it works on the CPU, and the device is {wanted.device}"
        if wanted.precision not in ("auto", "float32"):
            return f"it computes in float32, and the precision is {wanted.precision}"
    if name == "tensorrt":
        if not here.gpu or not (wanted.device == "auto" or wanted.device.startswith("cuda")):
            return f"it needs an NVIDIA GPU, and the device is {wanted.device if here.gpu else 'the CPU'}"
        if wanted.precision == "bfloat16":
            return "it computes in float32 or float16, and the precision is bfloat16"
    return ""


def _device(name: str, wanted: Wanted, gpu: bool) -> str:
    if wanted.device != "auto":
        return wanted.device
    return "cuda" if gpu and name != "onnxruntime" else "cpu"
