"""Class scores by TensorRT, with an engine that is built on this machine from the ONNX model and cached.

An engine works only with one GPU, one version of TensorRT and one size, so users exchange model files, not engines. The
memory of inputs and outputs comes from the CUDA runtime (the package cuda-bindings), so that PyTorch is not needed.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import math
import weakref
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from deal_core.devices import cuda_result, gpu_number, import_cuda
from deal_core.errors import BackendError
from deal_core.runtime.backends.cache import cached, keep
from deal_core.structures import Float32Array

_KIND = "engine"
_CHANNELS = {"image": 3, "depth": 1}
_log = logging.getLogger(__name__)


class TensorRtBackend:
    """An engine for one image at a time.

    Args:
        data: Content of the .onnx file.
        device: CUDA device.
        precision: "auto" (float16 before TensorRT 11, which chooses precisions itself), "float32" or "float16".
        input_size: (height, width) of the images.
        cache_dir: Cache folder of engines.

    Raises:
        BackendError: TensorRT or cuda-bindings is missing or too old, TensorRT lacks the precision, or it cannot build
            or run the engine.
    """

    name = "tensorrt"

    def __init__(self, data: bytes, device: str, precision: str, input_size: tuple[int, int], cache_dir: Path) -> None:
        trt, self._cuda = _import_tensorrt(), import_cuda()
        self.device, self.precision = device, engine_precision(precision, trt)
        self._number = gpu_number(device) or 0
        self._use_gpu()
        gpu = cuda_result(self._cuda.cudaGetDeviceProperties(self._number)).name.decode().rstrip("\0")
        key = engine_key(data, gpu, trt.__version__, self.precision, input_size)
        self._engine = load_engine(trt, data, self.precision, input_size, cache_dir, key)
        self._context = self._engine.create_execution_context()
        self._stream = cuda_result(self._cuda.cudaStreamCreate())
        _free_with(self, self._cuda.cudaStreamDestroy, self._stream)
        self._arrays = {name: _SharedArray(self._cuda, shape) for name, shape in self._shapes(trt, input_size).items()}
        for name, array in self._arrays.items():
            if not self._context.set_tensor_address(name, array.on_gpu):
                raise BackendError(f"the TensorRT engine does not take memory for the tensor '{name}'")

    def __call__(self, image: Float32Array, depth: Float32Array | None = None) -> Float32Array:
        """Return class scores (K, h, w) in [0, 1], as described in `ScoreBackend`; raise `BackendError` on failure."""
        self._use_gpu()
        self._arrays["image"].upload(image, self._stream)
        if depth is not None:
            self._arrays["depth"].upload(depth, self._stream)
        if not self._context.execute_async_v3(int(self._stream)):
            raise BackendError("the TensorRT engine failed; its messages are above")
        scores = self._arrays["scores"]
        scores.download(self._stream)
        cuda_result(self._cuda.cudaStreamSynchronize(self._stream))
        return scores.values[0].copy()

    def _use_gpu(self) -> None:
        """Make calls of this thread work on the GPU: each thread chooses its own."""
        cuda_result(self._cuda.cudaSetDevice(self._number))

    def _shapes(self, trt: Any, input_size: tuple[int, int]) -> dict[str, tuple[int, ...]]:
        """Return the shape of each input and output for one image, inputs first, which settle those of the outputs."""
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        for name in names:
            if self._engine.get_tensor_dtype(name) != trt.float32:
                raise BackendError(f"the TensorRT engine has no float32 tensor '{name}'")
        shapes = {name: (1, _CHANNELS[name], *input_size) for name in names if name in _CHANNELS}
        for name, shape in shapes.items():
            if not self._context.set_input_shape(name, shape):
                raise BackendError(f"the TensorRT engine does not take the shape {shape} for the input '{name}'")
        return {**shapes, **{n: tuple(self._context.get_tensor_shape(n)) for n in names if n not in _CHANNELS}}


class _SharedArray:
    """A float32 array on the GPU, and a copy in page-locked memory of the CPU; freed with this object.

    Args:
        cuda: CUDA runtime.
        shape: Shape of the array.

    Attributes:
        on_gpu: Address on the GPU.
        values: The copy on the CPU.
    """

    def __init__(self, cuda: Any, shape: tuple[int, ...]) -> None:
        self._cuda, self._bytes = cuda, 4 * math.prod(shape)
        self.on_gpu = int(cuda_result(cuda.cudaMalloc(self._bytes)))
        _free_with(self, cuda.cudaFree, self.on_gpu)
        self._on_cpu = int(cuda_result(cuda.cudaMallocHost(self._bytes)))
        _free_with(self, cuda.cudaFreeHost, self._on_cpu)
        memory = (ctypes.c_float * math.prod(shape)).from_address(self._on_cpu)
        self.values: Float32Array = np.ctypeslib.as_array(memory).reshape(shape)

    def upload(self, values: Float32Array, stream: Any) -> None:
        """Copy values to the GPU, after the work that waits in the stream."""
        np.copyto(self.values, values)
        to_gpu = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        cuda_result(self._cuda.cudaMemcpyAsync(self.on_gpu, self._on_cpu, self._bytes, to_gpu, stream))

    def download(self, stream: Any) -> None:
        """Copy the array from the GPU into `values`, which are valid when the stream is synchronised."""
        to_cpu = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        cuda_result(self._cuda.cudaMemcpyAsync(self._on_cpu, self.on_gpu, self._bytes, to_cpu, stream))


def _free_with(owner: object, free: Any, resource: Any) -> None:
    """Free a resource when its owner is collected; at the end of the process the driver frees everything."""
    weakref.finalize(owner, free, resource).atexit = False


def engine_key(data: bytes, gpu: str, version: str, precision: str, input_size: tuple[int, int]) -> dict[str, str]:
    """Return the cache key of an engine: everything that it depends on."""
    return {
        "onnx": hashlib.sha256(data).hexdigest(),
        "gpu": gpu,
        "tensorrt": version,
        "precision": precision,
        "size": "x".join(map(str, input_size)),
    }


def engine_precision(precision: str, trt: Any) -> str:
    """Return the precision of the engine; raise `BackendError` if this version of TensorRT cannot provide it."""
    can_choose = hasattr(trt.BuilderFlag, "FP16")
    if precision == "float16" and not can_choose:
        raise BackendError(
            f"TensorRT {trt.__version__} no longer lowers the precision of a float32 network: use the precision auto "
            "or float32, TensorRT 10, or the backend torch"
        )
    if precision == "auto":
        return "float16" if can_choose else "float32"
    return precision


def load_engine(
    trt: Any, data: bytes, precision: str, input_size: tuple[int, int], cache_dir: Path, key: dict[str, str]
) -> Any:
    """Return the engine from the cache; build it if it is missing, damaged or does not fit any more.

    Raises:
        BackendError: the engine cannot be built or loaded.
    """
    runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))

    build = partial(_build_engine, trt, data, precision, input_size)
    engine = runtime.deserialize_cuda_engine(cached(cache_dir, _KIND, key, build))
    if engine is None:
        _log.warning("the engine in %s no longer fits this machine: building it again", cache_dir)
        plan = build()
        keep(cache_dir, _KIND, key, plan)
        engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise BackendError("TensorRT cannot load the engine that it has built; its messages are above")
    return engine


def _build_engine(trt: Any, data: bytes, precision: str, input_size: tuple[int, int]) -> bytes:
    _log.warning("building a TensorRT engine (%s), once for this model and GPU: this takes minutes", precision)
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    # Before TensorRT 10, a network with a batch axis needs a flag.
    explicit = getattr(trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH", None)
    old = int(trt.__version__.split(".")[0]) < 10
    network = builder.create_network(1 << int(explicit) if old and explicit is not None else 0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(data):
        reasons = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
        raise BackendError(f"TensorRT {trt.__version__} cannot read the ONNX model: {reasons}")
    config = builder.create_builder_config()
    if precision == "float16":
        config.set_flag(trt.BuilderFlag.FP16)
    profile = builder.create_optimization_profile()
    for name in (network.get_input(i).name for i in range(network.num_inputs)):
        shape = (1, _CHANNELS[name], *input_size)
        profile.set_shape(name, shape, shape, shape)
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BackendError(f"TensorRT {trt.__version__} cannot build an engine; its messages are above")
    return bytes(plan)


def _import_tensorrt() -> Any:
    try:
        import tensorrt
    except (ImportError, OSError) as error:
        raise BackendError(f"tensorrt cannot be imported ({error})") from None
    # Before 8.5, tensors have numbers instead of names.
    version = tuple(int(part) for part in tensorrt.__version__.split(".")[:2])
    if version < (8, 5):
        raise BackendError(f"expected TensorRT 8.5 or newer, found {tensorrt.__version__}: use the backend torch")
    return tensorrt
