"""Class scores by ONNX Runtime, on the CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from deal_core.errors import BackendError
from deal_core.runtime.backends.choice import INSTALL_HINT
from deal_core.structures import Float32Array


class OnnxRuntimeBackend:
    """An ONNX model as `deal_core.runtime.onnx_export` makes it; as many threads as PyTorch would use.

    Args:
        data: the contents of the .onnx file.
        precision: what it says of itself, "float32" or "int8".

    Raises:
        BackendError: as `open_session`.
    """

    name, device = "onnxruntime", "cpu"

    def __init__(self, data: bytes, precision: str = "float32") -> None:
        self.precision = precision
        self._session = open_session(data, threads=torch.get_num_threads())

    def __call__(self, image: Tensor, depth: Tensor | None = None) -> Float32Array:
        """Return class scores (K, h, w) in [0, 1], as `ScoreBackend`."""
        inputs = {"image": image.numpy()} if depth is None else {"image": image.numpy(), "depth": depth.numpy()}
        (scores,) = self._session.run(["scores"], inputs)
        return scores[0]


def open_session(data: bytes, threads: int = 1) -> Any:
    """Return an ONNX Runtime session on the CPU.

    Args:
        data: the contents of an .onnx file.
        threads: to compute with.

    Raises:
        BackendError: ONNX Runtime is missing or cannot run the model.
    """
    try:
        import onnxruntime
    except (ImportError, OSError) as error:
        raise BackendError(f"onnxruntime cannot be imported ({error}): {INSTALL_HINT}") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    # A robot has other work for its cores than waiting for the next layer.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own classes, of which each release has others
        reason = str(error).strip().splitlines()[0]
        raise BackendError(f"onnxruntime {onnxruntime.__version__} cannot run the model: {reason}") from None
