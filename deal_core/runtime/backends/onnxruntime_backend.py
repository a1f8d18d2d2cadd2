"""Class scores by ONNX Runtime, on the CPU."""

from __future__ import annotations

import os
import re
from functools import lru_cache
from typing import Any

import numpy as np

from deal_core.devices import cpu_threads
from deal_core.errors import BackendError
from deal_core.limits import limit, over
from deal_core.runtime.backends.choice import RUN_HINT
from deal_core.structures import Float32Array

_TOO_MUCH = re.compile(r"Available memory of \d+ is smaller than requested bytes of (\d+)")


class OnnxRuntimeBackend:
    """An ONNX model of `deal_core.runtime.onnx_export`, with as many threads as PyTorch uses.

    Args:
        data: Content of the .onnx file.
        precision: Precision of the model, "float32" or "int8".

    Raises:
        BackendError: `open_session` raises it; a call, if the network fails or takes more memory than its limit.
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
        try:
            (scores,) = self._session.run(["scores"], inputs)
        except Exception as error:  # the classes of errors depend on the release
            raise _cannot_run(error) from None
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
    """Return an ONNX Runtime session on the CPU for an .onnx file; raise `BackendError` if it cannot run.

    All sessions of a process together take at most the limit `onnx_memory`, because the layers of a small file may be
    of any size.
    """
    try:
        onnxruntime = import_onnxruntime()
    except (ImportError, OSError) as error:
        raise BackendError(f"onnxruntime cannot be imported ({error}): {RUN_HINT}") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    # Spinning threads would block cores that a robot needs for other work.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4  # what fails is raised, too
    # What depends on no input is computed here, in memory without a limit; layers of deal export do not.
    options.add_session_config_entry("optimization.constant_folding_max_output_size_in_bytes", str(2**16))
    _register_arena()
    options.add_session_config_entry("session.use_env_allocators", "1")
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the classes of errors depend on the release
        raise _cannot_run(error) from None


@lru_cache  # ONNX Runtime takes one in a process
def _register_arena() -> None:
    """Give the sessions of this process one pool of memory, and let it grow up to a limit."""
    onnxruntime = import_onnxruntime()
    kind, place = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, onnxruntime.OrtMemType.DEFAULT
    memory = onnxruntime.OrtMemoryInfo("Cpu", kind, 0, place)
    onnxruntime.create_and_register_allocator(memory, onnxruntime.OrtArenaCfg(limit("onnx_memory"), -1, -1, -1))


def _cannot_run(error: Exception) -> BackendError:
    version = import_onnxruntime().__version__
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:500]
    if found := _TOO_MUCH.search(str(error)):
        reason = over("onnx_memory", int(found[1]) + limit("onnx_memory"), "bytes of memory") or reason
    return BackendError(f"onnxruntime {version} cannot run the model: {reason}")
