"""Quantisation of ONNX models to int8 for CPUs, with value ranges from frames and a comparison of masks.

Weights are int8 with one scale per channel, and activations are uint8. The normalisation of colours, the resizing and
normalisation of features, and the layers that make the logits stay float: there, a step of 1/256 of the range changes
the mask. The file has the inputs and outputs of the float model.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deal_core.dataset.dataset import Dataset
from deal_core.dataset.network_input import depth_to_input, image_to_input, resize_image
from deal_core.errors import BackendError, DatasetError
from deal_core.masks.fast_mask import decide_mask
from deal_core.models.model_info import ModelInfo
from deal_core.runtime.backends.choice import INSTALL_HINT
from deal_core.runtime.backends.onnxruntime_backend import import_onnxruntime, open_session
from deal_core.runtime.onnx_export import Exported, describe, import_onnx, quiet
from deal_core.structures import Float32Array, Sample

LEAST_AGREEMENT = 0.8
"""Smallest share of pixels with the same class in both models, among pixels with a class in either."""

_WITH_WEIGHTS = ("Conv", "Gemm", "MatMul")
_QUANTISED = (*_WITH_WEIGHTS, "Add", "Clip", "Concat", "GlobalAveragePool", "MaxPool", "Relu")


@dataclass(frozen=True, eq=False)
class Quantised:
    """An int8 ONNX model, and the agreement of its masks with float32 on the calibration frames.

    Args:
        data: Content of the .onnx file.
        frames: Number of frames.
        same: Share of pixels with the same id.
        agreement: Share of pixels with the same id, among the pixels with a class in either model.
    """

    data: bytes
    frames: int
    same: float
    agreement: float


def quantise(
    exported: Exported,
    model_sha256: str,
    dataset: Dataset,
    *,
    advance: Callable[[int], None] = lambda frames: None,
) -> Quantised:
    """Make an int8 model from a float model.

    Args:
        exported: The float model.
        model_sha256: SHA-256 of the .safetensors file from which it was exported.
        dataset: Frames similar to those at run time; each is processed twice.
        advance: Function to call with the number of processed frames, up to twice the number of frames.

    Raises:
        DatasetError: there is no frame, or a file of a frame is missing or damaged.
        BackendError: a package is missing, the model cannot be quantised, or its masks differ too much.
    """
    if not len(dataset):
        raise DatasetError(f"{dataset.path}: expected frames to learn the ranges of int8 from, found none")
    info = exported.info
    frames = _Frames(dataset, info, advance)
    data = _quantise(exported.data, info, model_sha256, frames)
    pixels, same, any_class, same_class = _compare(open_session(exported.data), open_session(data), frames)
    if any_class == 0:
        raise BackendError(
            f"the model finds no class in the {len(dataset)} frames of {dataset.path}, so int8 cannot be compared with "
            "float32: choose frames with objects"
        )
    agreement = same_class / any_class
    if agreement < LEAST_AGREEMENT:
        raise BackendError(
            f"of the pixels with a class in int8 or float32, {agreement:.1%} have the same in both, expected at least "
            f"{LEAST_AGREEMENT:.0%}: use more frames, similar to those of the robot, or float32"
        )
    return Quantised(data, len(dataset), same / pixels, agreement)


class _Frames:
    """The frames as inputs of the model, as at run time; also the reader for the calibration."""

    def __init__(self, dataset: Dataset, info: ModelInfo, advance: Callable[[int], None]) -> None:
        self._dataset, self._info, self._advance = dataset, info, advance
        self._done = 0
        self._inputs = self.inputs()

    def get_next(self) -> dict[str, Any] | None:
        """Return the inputs for the next frame; None after the last."""
        return next((inputs for _, inputs in self._inputs), None)

    def inputs(self) -> Iterator[tuple[Sample, dict[str, Any]]]:
        """Yield each frame and the model's inputs for it, by name."""
        for index in range(len(self._dataset)):
            sample = self._dataset.load(index)
            image = image_to_input(resize_image(sample.image, self._info.input_size))
            inputs = {"image": image[None]}
            if self._info.uses_depth:
                inputs["depth"] = depth_to_input(sample.depth, self._info.input_size)[None]
            yield sample, inputs
            self._done += 1
            self._advance(self._done)

    def masks(self, scores: Float32Array, size: tuple[int, int]) -> Any:
        """Return the mask (H, W) of scores, as at run time."""
        return decide_mask(scores, size, self._info.threshold.value, relative=not self._info.is_segmenter)


def _compare(float_session: Any, int8_session: Any, frames: _Frames) -> list[int]:
    """Return the numbers of pixels: all, with the same id, with a class in either mask, with the same class."""
    total = np.zeros(4, np.int64)
    for sample, inputs in frames.inputs():
        size = sample.image.shape[:2]
        expected, found = (
            frames.masks(session.run(["scores"], inputs)[0][0], size) for session in (float_session, int8_session)
        )
        same, seen = expected == found, (expected > 0) | (found > 0)
        total += (same.size, same.sum(), seen.sum(), (same & seen).sum())
    counts: list[int] = total.tolist()
    return counts


def _quantise(data: bytes, info: ModelInfo, model_sha256: str, frames: _Frames) -> bytes:
    onnx, quantization = import_onnx(), _import_quantization()
    try:
        with quiet(""), tempfile.TemporaryDirectory() as folder:
            whole, prepared, quantised = (Path(folder, f"{name}.onnx") for name in ("float", "prepared", "int8"))
            whole.write_bytes(data)
            # ONNX infers the shapes: the symbolic inference of ONNX Runtime fails on some networks.
            quantization.shape_inference.quant_pre_process(whole, prepared, skip_symbolic_shape=True)
            quantization.quantize_static(
                prepared,
                quantised,
                frames,
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=list(_QUANTISED),
                nodes_to_exclude=_heads(onnx.load(prepared)),
                per_channel=True,
                # CPUs without a dot product of bytes add pairs of products in 16 bits, which the full range overflows.
                reduce_range=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                extra_options={"MatMulConstBOnly": True},
            )
            graph = onnx.load(quantised)
    except DatasetError:
        raise
    except Exception as error:  # errors of many classes
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BackendError(f"'{info.architecture}' cannot be quantised: {reason}") from error
    used = {node.domain for node in graph.graph.node}
    opsets = [entry for entry in graph.opset_import if entry.domain in used]
    del graph.opset_import[:]
    graph.opset_import.extend(opsets)
    describe(graph, info, model_sha256, "int8")
    return bytes(graph.SerializeToString())


def _heads(graph: Any) -> list[str]:
    """Return the names of the last layers with weights before the outputs."""
    maker = {name: node for node in graph.graph.node for name in node.output}
    heads: set[str] = set()
    ahead, seen = [output.name for output in graph.graph.output], set()
    while ahead:
        name = ahead.pop()
        if name in seen or name not in maker:
            continue
        seen.add(name)
        if maker[name].op_type in _WITH_WEIGHTS:
            heads.add(maker[name].name)
        else:
            ahead += maker[name].input
    return sorted(heads)


def _import_quantization() -> Any:
    try:
        import_onnxruntime()
        import onnxruntime.quantization.shape_inference

        return onnxruntime.quantization
    except (ImportError, OSError) as error:
        raise BackendError(f"int8 needs the quantization of onnxruntime ({error}): {INSTALL_HINT}") from None
