"""Class scores by ONNX Runtime, on the CPU."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from deal_core.devices import cpu_threads
from deal_core.errors import BackendError
from deal_core.runtime.backends.choice import RUN_HINT
from deal_core.structures import Float32Array


class OnnxRuntimeBackend:
    """An ONNX model of `deal_core.runtime.onnx_export`, with as many threads as PyTorch uses.

    Args:
        data: Content of the .onnx file.
        precision: Precision of the model, "float32" or "int8".

    Raises:
        BackendError: `open_session` raises it.
    """

    name, device = "onnxruntime", "cpu"

    def __init__(self, data: bytes, precision: str = "float32") -> None:
        self.precision = precision
        self._session = open_session(data, threads=cpu_threads())

    def __call__(self, image: Float32Array, depth: Float32Array | None = None) -> Float32Array:
        """Return class scores (K, h, w) in [0, 1], as described in `ScoreBackend`."""
        inputs = {"image": np.asarray(image)}
        if depth is not None:
            inputs["depth"] = np.asarray(depth)
        (scores,) = self._session.run(["scores"], inputs)
        return scores[0]


def import_onnxruntime() -> Any:
    """Return the module onnxruntime with its telemetry off; import it nowhere else.

    onnxruntime 1.32 writes an identifier of the device below the user's cache folder and looks up an address of its
    maker, unless a variable of the environment forbids it before the import. The function that turns its events off
    is called, too, in case another library has imported onnxruntime before.

    Raises:
        ImportError, OSError: onnxruntime cannot be imported.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    return onnxruntime


def open_session(data: bytes, threads: int = 1) -> Any:
    """Return an ONNX Runtime session on the CPU for an .onnx file; raise `BackendError` if it cannot run."""
    try:
        onnxruntime = import_onnxruntime()
    except (ImportError, OSError) as error:
        raise BackendError(f"onnxruntime cannot be imported ({error}): {RUN_HINT}") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    # Spinning threads would block cores that a robot needs for other work.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the classes of errors depend on the release
        reason = str(error).strip().splitlines()[0]
        raise BackendError(f"onnxruntime {onnxruntime.__version__} cannot run the model: {reason}") from None
