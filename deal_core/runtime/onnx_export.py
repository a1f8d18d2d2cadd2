"""Export of a model to ONNX: a checked network from RGB (and depth) to class scores, with classes and threshold.

The input `image` is (B, 3, H, W) float32, RGB in [0, 1], with any B and the size of the export. Models with depth also
have the input `depth`, (B, 1, H, W) float32 metres, 0 where unknown. The outputs are `scores` (B, K, h, w) in [0, 1] at
the stride of the network, 0 for absent classes, and `tags` (B, K), the probabilities that the classes are present. The
model contains the normalisation of colours and depth.
"""

from __future__ import annotations

import dataclasses
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deal_core.errors import BackendError
from deal_core.masks.class_scores import TAG_THRESHOLD, ScoreNetwork
from deal_core.models.model_file import LoadedModel
from deal_core.models.model_info import ModelInfo, refuse_region_model
from deal_core.runtime.backends.choice import INSTALL_HINT
from deal_core.runtime.backends.onnxruntime_backend import open_session
from deal_core.runtime.onnx_file import OPSET, input_channels, onnx_metadata

TOLERANCE = 1e-3
"""Largest difference of scores and tag probabilities between the ONNX model and PyTorch."""

_NEAR = 1e-3  # tags this close to their threshold may be on either side of it


@dataclass(frozen=True, eq=False)
class Exported:
    """An ONNX model.

    Args:
        data: Content of the .onnx file.
        info: Description of the model, with the size of the export.
        difference: Largest difference of scores and tag probabilities from PyTorch.
    """

    data: bytes
    info: ModelInfo
    difference: float


def export_onnx(model: LoadedModel, input_size: tuple[int, int] | None = None) -> Exported:
    """Export a model to ONNX and compare it with PyTorch on random images.

    Args:
        model: Model to export.
        input_size: (height, width) of the images; default: the input size of the model.

    Raises:
        BackendError: a package is missing, the network cannot be exported, or the results differ.
        ModelFileError: the model makes training masks only.
    """
    refuse_region_model("export", model.info)
    info = dataclasses.replace(model.info, input_size=input_size or model.info.input_size)
    onnx = import_onnx()
    network = ScoreNetwork(model.network).eval().requires_grad_(False)
    inputs = input_channels(info)
    try:
        with quiet("torch.onnx"), torch.no_grad():
            program = torch.onnx.export(
                network,
                tuple(torch.rand(2, channels, *info.input_size) for channels in inputs.values()),
                input_names=list(inputs),
                output_names=["scores", "tags"],
                dynamic_shapes={name: {0: torch.export.Dim("batch")} for name in inputs},
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
            assert program is not None
            graph = program.model_proto
    except Exception as error:  # errors of many classes
        reason = str(error).strip().splitlines()[0]
        raise BackendError(f"'{info.architecture}' cannot be exported to ONNX: {reason}") from error
    describe(graph, info, model.sha256, "float32")
    try:
        onnx.checker.check_model(graph)
        data: bytes = graph.SerializeToString()
    except ValueError as error:  # protobuf is limited to 2 GB
        raise BackendError(f"'{info.architecture}' cannot be written as ONNX: {error}") from error
    return Exported(data, info, check_against_torch(data, network, info))


def check_against_torch(data: bytes, network: ScoreNetwork, info: ModelInfo) -> float:
    """Return the largest difference of scores and tags between an ONNX model and the network, on random images.

    Maps of classes with a tag close to its threshold are ignored: they may be present in one model only.

    Raises:
        BackendError: the difference is above `TOLERANCE`, or ONNX Runtime cannot run the model.
    """
    session = open_session(data)
    largest = 0.0
    for inputs in _random_inputs(info):
        scores, tags = session.run(["scores", "tags"], {name: values.numpy() for name, values in inputs.items()})
        with torch.no_grad():
            expected_scores, expected_tags = (t.numpy() for t in network(**inputs))
        sure = np.abs(expected_tags - TAG_THRESHOLD) > _NEAR
        gap = np.abs(scores - expected_scores)[sure]
        largest = max(largest, float(np.abs(tags - expected_tags).max()), float(gap.max()) if gap.size else 0.0)
    # Negated, so that nan raises as well.
    if not largest <= TOLERANCE:
        raise BackendError(
            f"the scores of the ONNX model differ from PyTorch's by {largest:.2g}, expected at most {TOLERANCE:g}; use "
            "the .safetensors file with backend torch"
        )
    return largest


def describe(graph: Any, info: ModelInfo, model_sha256: str, precision: str) -> None:
    """Write the description of the model, and a hash of the network against damage, into an ONNX graph."""
    serialised = graph.graph.SerializeToString(deterministic=True)
    import_onnx().helper.set_model_props(graph, onnx_metadata(info, model_sha256, precision, serialised))
    graph.producer_name = "deal export"


def import_onnx() -> Any:
    """Return the package onnx; raise `BackendError` if it is missing."""
    try:
        import onnx

        return onnx
    except (ImportError, OSError) as error:
        raise BackendError(f"ONNX models need the package onnx ({error}): {INSTALL_HINT}") from None


def _random_inputs(info: ModelInfo) -> Iterator[dict[str, Tensor]]:
    """Yield batches of several sizes: noise, and smooth blobs, which excite networks more; depth has holes."""
    generator = torch.Generator().manual_seed(0)

    def noise(batch: int, channels: int) -> Tensor:
        return torch.rand(batch, channels, *info.input_size, generator=generator)

    def blobs(batch: int, channels: int) -> Tensor:
        few = torch.rand(batch, channels, 5, 7, generator=generator)
        return torch.nn.functional.interpolate(few, info.input_size, mode="bicubic", align_corners=False).clamp(0, 1)

    for batch in (1, 3):
        for make in (noise, blobs):
            inputs = {name: make(batch, channels) for name, channels in input_channels(info).items()}
            if "depth" in inputs:
                inputs["depth"] = (3 * inputs["depth"] - 0.5).clamp(min=0)
            yield inputs


@contextmanager
def quiet(name: str) -> Iterator[None]:
    """Hide warnings and the log below errors of the logger of this name."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
