"""Class scores by TensorRT, with an engine that is built on this machine from the ONNX model and cached.

An engine works only with one GPU, one version of TensorRT and one size, so users exchange model files, not engines.
"""

from __future__ import annotations

import hashlib
import logging
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

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
        BackendError: TensorRT is missing or too old, lacks the precision, or cannot build or run the engine.
    """

    name = "tensorrt"

    def __init__(self, data: bytes, device: str, precision: str, input_size: tuple[int, int], cache_dir: Path) -> None:
        trt = _import_tensorrt()
        self.device, self.precision = device, engine_precision(precision, trt)
        gpu = torch.cuda.get_device_name(device)
        key = engine_key(data, gpu, trt.__version__, self.precision, input_size)
        with torch.cuda.device(device):
            engine = load_engine(trt, data, self.precision, input_size, cache_dir, key)
            self._engine, self._context = engine, engine.create_execution_context()
            self._tensors = {}
            for name in (engine.get_tensor_name(i) for i in range(engine.num_io_tensors)):
                shape = (1, _CHANNELS[name], *input_size) if name in _CHANNELS else self._context.get_tensor_shape(name)
                tensor = self._tensors[name] = torch.empty(tuple(shape), device=device)
                if not self._context.set_tensor_address(name, tensor.data_ptr()):
                    raise BackendError(f"the TensorRT engine has no float32 tensor '{name}'")

    def __call__(self, image: Tensor, depth: Tensor | None = None) -> Float32Array:
        """Return class scores (K, h, w) in [0, 1], as described in `ScoreBackend`; raise `BackendError` on failure."""
        with torch.cuda.device(self.device):
            self._tensors["image"].copy_(image)
            if depth is not None:
                self._tensors["depth"].copy_(depth)
            if not self._context.execute_async_v3(torch.cuda.current_stream().cuda_stream):
                raise BackendError("the TensorRT engine failed; its messages are above")
            return self._tensors["scores"][0].cpu().numpy()


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
