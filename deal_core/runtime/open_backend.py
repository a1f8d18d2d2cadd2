"""Opening of a model file on a back end."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from deal_core.devices import resolve_device
from deal_core.errors import BackendError, UsageError
from deal_core.models.model_info import ModelInfo, read_info, refuse_region_model
from deal_core.runtime.backends.cache import cached, default_cache_dir
from deal_core.runtime.backends.choice import TORCH_HINT, BackendCandidate, Wanted, candidates, look_here
from deal_core.runtime.onnx_file import FORMAT_VERSION, OPSET, read_onnx
from deal_core.structures import Float32Array

_log = logging.getLogger(__name__)
_ROUND_TO = 8
_SMALLEST, _LARGEST = 32, 4096


class ScoreBackend(Protocol):
    """A back end that computes class scores."""

    name: str
    device: str
    precision: str

    def __call__(self, image: Float32Array, depth: Float32Array | None = None) -> Float32Array:
        """Return class scores (K, h, w) in [0, 1].

        Args:
            image: (1, 3, H, W) float32 RGB in [0, 1].
            depth: (1, 1, H, W) float32 metres, 0 where unknown; None for a model without depth.
        """


@dataclass(frozen=True, eq=False)
class Opened:
    """A model on a back end.

    Args:
        backend: The back end.
        info: Description of the model.
        model_sha256: SHA-256 of the .safetensors file.
        input_size: (height, width) of the input images.
        reason: Reason for the choice of the back end.
    """

    backend: ScoreBackend
    info: ModelInfo
    model_sha256: str
    input_size: tuple[int, int]
    reason: str


def open_backend(path: Path, wanted: Wanted, cache_dir: Path | None = None, shorter_side: int = 0) -> Opened:
    """Open a model file on the best back end that can run it.

    Args:
        path: A .safetensors file, or an .onnx file by `deal export`.
        wanted: Requested back end and options.
        cache_dir: Folder for converted ONNX models and engines; default: the cache folder of the user.
        shorter_side: Shorter side of the images, as in `scaled_size`.

    Raises:
        ModelFileError: the file cannot be used.
        UsageError: the options cannot be satisfied on this machine, or contradict each other.
        BackendError: the requested back end cannot run the model.
    """
    kind = _OnnxFile if path.suffix == ".onnx" else _ModelFile
    source = kind(path, shorter_side, cache_dir or default_cache_dir())
    failures: list[str] = []
    choices = candidates(wanted, look_here())
    for choice in choices:
        try:
            backend = _create(choice, source, wanted)
        except BackendError as error:
            if len(choices) == 1:
                raise
            _log.warning("backend %s cannot be used (%s): trying the next", choice.name, error)
            failures.append(f"not {choice.name}: {error}")
        else:
            reason = "; ".join((choice.reason, *failures))
            return Opened(backend, source.info, source.model_sha256, source.input_size, reason)
    raise BackendError(f"{path}: no backend can run it: {'; '.join(failures)}")


def scaled_size(input_size: tuple[int, int], shorter_side: int) -> tuple[int, int]:
    """Return the size (height, width) of images for a network, with the aspect ratio of its training.

    Args:
        input_size: (height, width) of the model.
        shorter_side: Shorter side in pixels; 0 for the size of the model. The longer side is a multiple of 8.

    Raises:
        UsageError: the shorter side is neither 0 nor 32 to 4096.
    """
    if shorter_side == 0:
        return input_size
    if not _SMALLEST <= shorter_side <= _LARGEST:
        raise UsageError(
            f"expected input_size 0 (size of the model) or a shorter side of {_SMALLEST} to {_LARGEST} pixels, found "
            f"{shorter_side}"
        )
    longer = round(max(input_size) / min(input_size) * shorter_side / _ROUND_TO) * _ROUND_TO
    longer = max(longer, shorter_side)
    return (shorter_side, longer) if input_size[0] <= input_size[1] else (longer, shorter_side)


def _create(choice: BackendCandidate, source: _ModelFile | _OnnxFile, wanted: Wanted) -> ScoreBackend:
    if choice.name == "torch":
        with _torch_at_hand(source.path):
            from deal_core.models.model_file import load_model
            from deal_core.runtime.backends.torch_backend import TorchBackend

        network = load_model(source.path).network
        compile_for = source.input_size if wanted.compile else None
        # The driver may have a GPU that this build of PyTorch cannot use.
        return TorchBackend(network, resolve_device(wanted.device), wanted.precision, compile_for=compile_for)
    data, precision = source.onnx()
    if choice.name == "onnxruntime":
        from deal_core.runtime.backends.onnxruntime_backend import OnnxRuntimeBackend

        if wanted.precision not in ("auto", precision):
            raise BackendError(
                f"{source.path} computes in {precision}, but the requested precision is {wanted.precision}: use auto, "
                "or export it again"
            )
        return OnnxRuntimeBackend(data, precision)
    from deal_core.runtime.backends.tensorrt_backend import TensorRtBackend

    if precision != "float32":
        raise BackendError(f"{source.path} is quantised for the CPU ({precision}): use a float32 model with tensorrt")
    return TensorRtBackend(data, choice.device, wanted.precision, source.input_size, source.cache_dir)


@contextmanager
def _torch_at_hand(path: Path) -> Iterator[None]:
    """Raise `BackendError` where PyTorch, or a library of the networks, cannot be imported within the block."""
    try:
        yield
    except (ImportError, OSError) as error:
        raise BackendError(
            f"{path}: a .safetensors file needs PyTorch ({error}): {TORCH_HINT}; or make an .onnx file with `deal "
            "export` where PyTorch is installed, which runs without it"
        ) from None


class _ModelFile:
    """A .safetensors file; `onnx` returns the model as ONNX, and its precision."""

    def __init__(self, path: Path, shorter_side: int, cache_dir: Path) -> None:
        self.path, self.cache_dir = path, cache_dir
        with _torch_at_hand(path):
            self.info = read_info(path)
        refuse_region_model(path, self.info)
        self.model_sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        self.input_size = scaled_size(self.info.input_size, shorter_side)

    def onnx(self) -> tuple[bytes, str]:
        key = {
            "model": self.model_sha256,
            "size": "x".join(map(str, self.input_size)),
            "opset": str(OPSET),
            "format": str(FORMAT_VERSION),
        }
        return cached(self.cache_dir, "onnx", key, self._export), "float32"

    def _export(self) -> bytes:
        with _torch_at_hand(self.path):
            from deal_core.models.model_file import load_model
            from deal_core.runtime.onnx_export import export_onnx

        return export_onnx(load_model(self.path), self.input_size).data


class _OnnxFile:
    """An .onnx file, with the same members as `_ModelFile`."""

    def __init__(self, path: Path, shorter_side: int, cache_dir: Path) -> None:
        self.path, self.cache_dir = path, cache_dir
        self._model = read_onnx(path)
        self.info, self.model_sha256 = self._model.info, self._model.model_sha256
        self.input_size = self.info.input_size
        if scaled_size(self.input_size, shorter_side) != self.input_size:
            height, width = self.input_size
            raise UsageError(
                f"{path} works only at {height}x{width}, but input_size is {shorter_side}: use the .safetensors file, "
                f"or `deal export --input-size {shorter_side}`"
            )

    def onnx(self) -> tuple[bytes, str]:
        return self._model.data, self._model.precision
