"""The back end TensorRT on a GPU that is made up, without PyTorch; real TensorRT is in test_open_backend."""

from __future__ import annotations

import gc
import inspect
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from helpers.cuda_stand_in import GPU_NAME, CudaStandIn, TensorRtStandIn

from deal_core import devices
from deal_core.devices import gpu_memory
from deal_core.errors import BackendError, UsageError
from deal_core.models.model_file import LoadedModel, load_model
from deal_core.runtime.backends import choice
from deal_core.runtime.backends.choice import Wanted
from deal_core.runtime.backends.onnxruntime_backend import OnnxRuntimeBackend
from deal_core.runtime.backends.tensorrt_backend import TensorRtBackend
from deal_core.runtime.onnx_export import export_onnx
from deal_core.runtime.open_backend import open_backend
from deal_core.runtime.segmenter import Segmenter

pytest.importorskip("onnx", reason="onnx is not installed (extra export)")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (extra export)")

CALLS = [
    "cudaSetDevice",
    "cudaGetDeviceProperties",
    "cudaMemGetInfo",
    "cudaMalloc",
    "cudaFree",
    "cudaMallocHost",
    "cudaFreeHost",
    "cudaStreamCreate",
    "cudaStreamDestroy",
    "cudaMemcpyAsync",
    "cudaStreamSynchronize",
]


@pytest.fixture(scope="module")
def colour(make_model: Callable[..., LoadedModel]) -> bytes:
    return export_onnx(make_model()).data


@pytest.fixture(scope="module")
def rgbd(rgbd_model: Path) -> bytes:
    return export_onnx(load_model(rgbd_model)).data


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> CudaStandIn:
    """A machine with one GPU, cuda-bindings and TensorRT 10."""
    made_up = CudaStandIn()
    install(monkeypatch, made_up, TensorRtStandIn(made_up))
    return made_up


def install(monkeypatch: pytest.MonkeyPatch, cuda: CudaStandIn, trt: TensorRtStandIn) -> None:
    bindings = ModuleType("cuda.bindings")
    bindings.runtime = cuda  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cuda", ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.bindings", bindings)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cuda)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "tensorrt", trt)  # type: ignore[arg-type]
    monkeypatch.setattr(choice, "gpu_count", lambda: cuda.gpus)
    monkeypatch.setattr(devices, "gpu_count", lambda: cuda.gpus)
    monkeypatch.setattr(choice, "is_installed", lambda name: name in ("tensorrt", "onnxruntime"))


def images(size: tuple[int, int], count: int = 3) -> list[np.ndarray]:
    return list(np.random.default_rng(0).random((count, 1, 3, *size), np.float32))


def test_the_stand_in_has_the_calls_of_cuda_bindings() -> None:
    real = pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")
    for name in CALLS:
        documented = re.match(rf"{name}\((.*)\)", getattr(real, name).__doc__)
        assert documented, name
        parameters = [part.split(":")[0].split()[-1] for part in documented[1].split(",") if part]
        assert list(inspect.signature(getattr(CudaStandIn(), name)).parameters) == parameters
    kinds = real.cudaMemcpyKind
    assert {kind.name: int(kind) for kind in CudaStandIn.cudaMemcpyKind} == {
        name: int(getattr(kinds, name)) for name in ("cudaMemcpyHostToDevice", "cudaMemcpyDeviceToHost")
    }
    assert isinstance(real.cudaDeviceProp().name, bytes) and int(real.cudaError_t.cudaSuccess) == 0


def test_scores_are_those_of_onnxruntime_and_belong_to_the_caller(
    colour: bytes, cuda: CudaStandIn, tmp_path: Path
) -> None:
    backend, reference = TensorRtBackend(colour, "cuda", "float32", (24, 32), tmp_path), OnnxRuntimeBackend(colour)
    found = [backend(image) for image in images((24, 32))]
    for image, scores in zip(images((24, 32)), found, strict=True):
        np.testing.assert_allclose(scores, reference(image), atol=1e-5)
    assert not np.array_equal(found[0], found[1]), "the second image overwrote the scores of the first"


def test_depth_goes_in_beside_the_image(rgbd: bytes, cuda: CudaStandIn, tmp_path: Path) -> None:
    backend, reference = TensorRtBackend(rgbd, "cuda:0", "float32", (48, 64), tmp_path), OnnxRuntimeBackend(rgbd)
    (image,) = images((48, 64), 1)
    near, far = (np.full((1, 1, 48, 64), metres, np.float32) for metres in (0.5, 3.0))
    for depth in (near, far):
        np.testing.assert_allclose(backend(image, depth), reference(image, depth), atol=1e-5)
    assert not np.allclose(backend(image, near), backend(image, far), atol=1e-5)


def test_another_thread_than_the_one_that_loaded_uses_the_same_gpu(
    colour: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cuda = CudaStandIn(gpus=2)
    install(monkeypatch, cuda, TensorRtStandIn(cuda))
    backend = TensorRtBackend(colour, "cuda:1", "auto", (24, 32), tmp_path)
    cuda.used.clear()
    thread = threading.Thread(target=backend, args=images((24, 32), 1))
    thread.start()
    thread.join()
    assert cuda.used == [1]


def test_memory_of_a_model_that_is_replaced_is_freed(colour: bytes, cuda: CudaStandIn, tmp_path: Path) -> None:
    backend: TensorRtBackend | None = TensorRtBackend(colour, "cuda", "auto", (24, 32), tmp_path)
    assert len(cuda.blocks) == len(cuda.pinned) == 3 and len(cuda.streams) == 1
    del backend
    gc.collect()
    assert not cuda.blocks and not cuda.pinned and not cuda.streams


def test_the_engine_is_built_once_for_this_gpu_and_precision(
    colour: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cuda = CudaStandIn()
    trt = TensorRtStandIn(cuda)
    install(monkeypatch, cuda, trt)
    for precision in ("auto", "float16", "float32"):
        TensorRtBackend(colour, "cuda", precision, (24, 32), tmp_path)
    shapes = {"image": (1, 3, 24, 32)}
    assert trt.built == [{"flags": [1], "shapes": shapes}, {"flags": [], "shapes": shapes}]
    headers = [file.read_bytes().split(b"\n")[1].decode() for file in tmp_path.iterdir()]
    assert all(GPU_NAME in header for header in headers)


def test_an_exported_file_runs_on_tensorrt_by_itself(
    colour: bytes, cuda: CudaStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.onnx").write_bytes(colour)
    segmenter = Segmenter.load(tmp_path / "model.onnx", engine_cache_dir=tmp_path)
    assert (segmenter.backend, segmenter.device, segmenter.precision) == ("tensorrt", "cuda", "float16")
    rgb = np.random.default_rng(1).integers(0, 256, (48, 64, 3), np.uint8)
    expected = Segmenter.load(tmp_path / "model.onnx", "cpu", backend="onnxruntime").segment(rgb)
    np.testing.assert_array_equal(segmenter.segment(rgb).mask, expected.mask)


def test_what_fails_on_the_gpu_is_told_and_passed_over(
    colour: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "model.onnx").write_bytes(colour)

    def load(cuda: CudaStandIn, **faults: Any) -> Any:
        install(monkeypatch, cuda, TensorRtStandIn(cuda, **faults))
        return open_backend(tmp_path / "model.onnx", Wanted(), tmp_path)

    small = load(CudaStandIn(memory=4000))
    assert small.backend.name == "onnxruntime" and "cudaErrorMemoryAllocation" in small.reason
    half = load(CudaStandIn(), dtype=TensorRtStandIn.float16)
    assert half.backend.name == "onnxruntime" and "has no float32 tensor" in half.reason
    failing = load(CudaStandIn(), fails=True).backend
    with pytest.raises(BackendError, match="the TensorRT engine failed"):
        failing(images((24, 32), 1)[0])


def test_without_cuda_bindings_the_package_is_named(
    colour: bytes, cuda: CudaStandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(BackendError, match=r"package cuda-bindings .*pip install 'deal_ros\[tensorrt\]'"):
        TensorRtBackend(colour, "cuda", "auto", (24, 32), tmp_path)


def test_a_gpu_that_is_not_there_is_refused(colour: bytes, cuda: CudaStandIn, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(colour)
    with pytest.raises(UsageError, match=r"device 'cuda:1' cannot be used here \(the NVIDIA driver gives only 1\)"):
        Segmenter.load(tmp_path / "model.onnx", "cuda:1")


def test_memory_of_the_gpu_is_told_without_torch(cuda: CudaStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_loaded_torch", lambda: None)
    cuda.cudaMalloc(2**20)
    assert str(gpu_memory("cuda")) == "1023 of 1024 MiB free"
    assert gpu_memory("cpu") is None
