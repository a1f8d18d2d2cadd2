"""Which back end, on machines of every kind."""

from __future__ import annotations

import pytest

from deal_core.errors import UsageError
from deal_core.runtime.backends.choice import Here, Wanted, candidates

LAPTOP, BARE = Here(gpu=False, installed=("onnxruntime",)), Here(gpu=False, installed=())
JETSON, WORKSTATION = Here(gpu=True, installed=("tensorrt", "onnxruntime")), Here(gpu=True, installed=())


@pytest.mark.parametrize(
    ("here", "wanted", "expected"),
    [
        (LAPTOP, Wanted(), ["onnxruntime cpu", "torch cpu"]),
        (BARE, Wanted(), ["torch cpu"]),
        (JETSON, Wanted(), ["tensorrt cuda", "torch cuda", "onnxruntime cpu"]),
        (JETSON, Wanted(device="cuda:1"), ["tensorrt cuda:1", "torch cuda:1"]),
        (JETSON, Wanted(device="cpu"), ["onnxruntime cpu", "torch cpu"]),
        (JETSON, Wanted(precision="bfloat16"), ["torch cuda"]),
        (JETSON, Wanted(compile=True), ["torch cuda"]),
        (WORKSTATION, Wanted(), ["torch cuda"]),
        (LAPTOP, Wanted(is_onnx=True), ["onnxruntime cpu"]),
        (JETSON, Wanted(is_onnx=True), ["tensorrt cuda", "onnxruntime cpu"]),
        (LAPTOP, Wanted(backend="torch"), ["torch cpu"]),
        (JETSON, Wanted(backend="onnxruntime"), ["onnxruntime cpu"]),
    ],
)
def test_the_best_comes_first(here: Here, wanted: Wanted, expected: list[str]) -> None:
    assert [f"{found.name} {found.device}" for found in candidates(wanted, here)] == expected


def test_what_was_passed_over_is_said() -> None:
    (only,) = candidates(Wanted(), BARE)
    assert "not onnxruntime: the package onnxruntime is not installed (pip install 'deal_ros[export]')" in only.reason


@pytest.mark.parametrize(
    ("here", "wanted", "reason"),
    [
        (LAPTOP, Wanted(backend="openvino"), "expected auto, torch, onnxruntime, tensorrt"),
        (LAPTOP, Wanted(backend="tensorrt"), "package tensorrt is not installed"),
        (Here(False, ("tensorrt",)), Wanted(backend="tensorrt"), "needs an NVIDIA GPU"),
        (JETSON, Wanted(backend="tensorrt", precision="bfloat16"), "float32 or float16"),
        (JETSON, Wanted(backend="onnxruntime", device="cuda"), "it works on the CPU"),
        (LAPTOP, Wanted(backend="onnxruntime", precision="float16"), "computes in float32"),
        (LAPTOP, Wanted(backend="torch", is_onnx=True), "reads the .safetensors file"),
        (BARE, Wanted(is_onnx=True), "no backend can run this"),
    ],
)
def test_what_cannot_be_had_is_refused_with_the_reason(here: Here, wanted: Wanted, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        candidates(wanted, here)
