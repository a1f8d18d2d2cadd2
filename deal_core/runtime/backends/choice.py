"""The choice of a back end by the options and the machine, with a reason."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, get_args

from deal_core.devices import gpu_count
from deal_core.errors import UsageError
from deal_core.isolated_python import is_installed

BackendName = Literal["auto", "torch", "onnxruntime", "tensorrt"]
Precision = Literal["auto", "float32", "float16", "bfloat16"]

INSTALL_HINT = "pip install 'deal_ros[export]'"
RUN_HINT = "pip install 'deal_ros[robot]'"
TORCH_HINT = "pip install 'deal_ros[torch]'"


@dataclass(frozen=True)
class Wanted:
    """The options of the user.

    Args:
        backend: "auto", "torch", "onnxruntime" or "tensorrt".
        device: "auto" or an existing device.
        precision: "auto", "float32", "float16" or "bfloat16".
        is_onnx: Whether the model file is an .onnx file.
        compile: Whether PyTorch compiles the network.
    """

    backend: str = "auto"
    device: str = "auto"
    precision: str = "auto"
    is_onnx: bool = False
    compile: bool = False


@dataclass(frozen=True)
class Here:
    """The abilities of this machine.

    Args:
        gpu: Whether there is an NVIDIA GPU.
        installed: Those of the modules onnxruntime and tensorrt that are installed.
        torch: Whether PyTorch is installed.
    """

    gpu: bool
    installed: Collection[str]
    torch: bool = True


@dataclass(frozen=True)
class BackendCandidate:
    """A back end to try, its device, and the reason."""

    name: str
    device: str
    reason: str


def look_here() -> Here:
    """Return the abilities of this machine, without importing the back ends."""
    modules = {name for name in ("onnxruntime", "tensorrt", "torch") if is_installed(name)}
    return Here(gpu_count() > 0, frozenset(modules - {"torch"}), torch="torch" in modules)


def candidates(wanted: Wanted, here: Here) -> list[BackendCandidate]:
    """Return the back ends to try, best first; only the requested one if the user named it.

    With a GPU, the order is TensorRT, PyTorch, ONNX Runtime; on the CPU, it is ONNX Runtime, PyTorch.

    Raises:
        UsageError: the name is unknown, or neither the requested back end nor any other can be used.
    """
    if wanted.backend not in get_args(BackendName):
        raise UsageError(f"unknown backend '{wanted.backend}': expected {', '.join(get_args(BackendName))}")
    gpu = wanted.device.startswith("cuda") or (wanted.device == "auto" and here.gpu)
    if wanted.backend != "auto":
        refusal = refuse(wanted.backend, wanted, here)
        if refusal:
            raise UsageError(f"backend '{wanted.backend}' cannot be used: {refusal}")
        device = _device(wanted.backend, wanted, gpu)
        return [BackendCandidate(wanted.backend, device, f"backend {wanted.backend} was named")]
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
    """Return the reason why a back end cannot satisfy the options, or an empty string."""
    if name == "torch":
        if wanted.is_onnx:
            return "it reads the .safetensors file, not an .onnx file"
        return "" if here.torch else f"the package torch is not installed ({TORCH_HINT})"
    if wanted.compile:
        return "compile is an option of torch alone"
    if name not in here.installed:
        hint = (RUN_HINT if wanted.is_onnx else INSTALL_HINT) if name == "onnxruntime" else f"pip install {name}"
        return f"the package {name} is not installed ({hint})"
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
