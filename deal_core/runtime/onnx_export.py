"""A model as ONNX: the network from RGB (and depth) to class scores, checked, with its classes and threshold inside.

Input `image`: (B, 3, H, W) float32, RGB in [0, 1], any B, at the size the file was made for. Of a model that uses
depth, input `depth`: (B, 1, H, W) float32, metres, 0 where unknown. Outputs: `scores` (B, K, h, w) in [0, 1] at the
network's stride, 0 for classes the network holds absent, and `tags` (B, K), the probability that a class is there.
Normalisation of colours and depth is inside.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from deal_core.errors import BackendError, ModelFileError
from deal_core.masks.class_scores import TAG_THRESHOLD, ScoreNetwork
from deal_core.models.model_file import LoadedModel, ModelInfo, info_from_metadata, info_to_metadata
from deal_core.runtime.backends.choice import INSTALL_HINT
from deal_core.runtime.backends.onnxruntime_backend import open_session

OPSET = 18
FORMAT_VERSION = 1
TOLERANCE = 1e-3
"""Scores and tag probabilities of the ONNX model may differ by this from those of PyTorch."""

_KEY = "deal_onnx"
_NEAR = 1e-3  # a tag so close to its threshold may fall on either side


@dataclass(frozen=True, eq=False)
class Exported:
    """An ONNX model.

    Args:
        data: contents of the .onnx file.
        info: what it says of the model, with the size it was made for.
        difference: largest difference to PyTorch, of scores and tag probabilities.
    """

    data: bytes
    info: ModelInfo
    difference: float


@dataclass(frozen=True, eq=False)
class OnnxModel:
    """What an .onnx file holds.

    Args:
        data: its contents.
        info: what it says of the model.
        model_sha256: of the .safetensors file that it was made from.
        precision: "float32" or "int8".
    """

    data: bytes
    info: ModelInfo
    model_sha256: str
    precision: str


def export_onnx(model: LoadedModel, input_size: tuple[int, int] | None = None) -> Exported:
    """Make an ONNX model and compare it with PyTorch on random images.

    Args:
        model: the network and what describes it.
        input_size: (height, width) of the images; the model's own when left out.

    Raises:
        BackendError: a package is missing, the network cannot be exported, or the results differ.
    """
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
    except Exception as error:  # the exporter's own, of many classes
        reason = str(error).strip().splitlines()[0]
        raise BackendError(f"'{info.architecture}' cannot be exported to ONNX: {reason}") from error
    describe(graph, info, model.sha256, "float32")
    try:
        onnx.checker.check_model(graph)
        data: bytes = graph.SerializeToString()
    except ValueError as error:  # protobuf ends at 2 GB
        raise BackendError(f"'{info.architecture}' cannot be written as ONNX: {error}") from error
    return Exported(data, info, check_against_torch(data, network, info))


def input_channels(info: ModelInfo) -> dict[str, int]:
    """Return the channels of each input of the ONNX model, by name."""
    return {"image": 3, "depth": 1} if info.uses_depth else {"image": 3}


def check_against_torch(data: bytes, network: ScoreNetwork, info: ModelInfo) -> float:
    """Return the largest difference of scores and tags between an ONNX model and the network, on random images.

    Maps of a class whose tag is as good as on its threshold are left out: they may be there in one and not in the
    other.

    Raises:
        BackendError: it is above `TOLERANCE`, or ONNX Runtime cannot run the model.
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
    # Written so that nan is refused.
    if not largest <= TOLERANCE:
        raise BackendError(
            f"the ONNX model's scores differ from PyTorch's by {largest:.2g}, expected at most {TOLERANCE:g}; use the "
            ".safetensors file with backend torch"
        )
    return largest


def read_onnx(path: Path) -> OnnxModel:
    """Read an .onnx file that `deal export` made. Nothing in it is run.

    Raises:
        ModelFileError: the file is missing, damaged, not made by `deal export`, or of another format.
        BackendError: the package onnx is missing.
    """
    if not path.is_file():
        raise ModelFileError(
            f"{path}: expected a model file (.onnx), found {'a folder' if path.is_dir() else 'nothing'}"
        )
    data = path.read_bytes()
    again = "make it again with `deal export`"
    onnx = import_onnx()
    try:
        graph = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's own, of which each release has others
        raise ModelFileError(f"{path}: damaged or truncated, or not an .onnx file ({error}); {again}") from None
    metadata = {entry.key: entry.value for entry in graph.metadata_props}
    if _KEY not in metadata:
        raise ModelFileError(f"{path}: an .onnx file that `deal export` did not make; {again}")
    info = info_from_metadata(path, metadata)
    try:
        header = _Header.model_validate_json(metadata[_KEY])
    except ValidationError as error:
        raise ModelFileError(f"{path}: its header is damaged ({error.errors()[0]['msg']}); {again}") from None
    if header.format_version > FORMAT_VERSION:
        raise ModelFileError(
            f"{path}: format {header.format_version} is newer than this software reads (up to {FORMAT_VERSION}); "
            "update deal_ros"
        )
    opsets = [entry.version for entry in graph.opset_import if entry.domain in ("", "ai.onnx")]
    if opsets != [OPSET]:
        raise ModelFileError(f"{path}: expected ONNX opset {OPSET}, found {opsets}; {again}")
    if header.graph_sha256 not in ("", _graph_sha256(graph)):  # "" is of files from before it was written
        raise ModelFileError(f"{path}: damaged, its network is not what `deal export` wrote; copy it again, or {again}")
    _check_shapes(path, graph, info)
    return OnnxModel(data, info, header.model_sha256, header.precision)


def describe(graph: Any, info: ModelInfo, model_sha256: str, precision: str) -> None:
    """Write into an ONNX graph what describes the model, and by what damage to its network is noticed."""
    header = {
        "format_version": FORMAT_VERSION,
        "model_sha256": model_sha256,
        "precision": precision,
        "graph_sha256": _graph_sha256(graph),
    }
    import_onnx().helper.set_model_props(graph, {**info_to_metadata(info), _KEY: json.dumps(header)})
    graph.producer_name = "deal export"


def import_onnx() -> Any:
    """Return the package onnx.

    Raises:
        BackendError: it is missing.
    """
    try:
        import onnx

        return onnx
    except (ImportError, OSError) as error:
        raise BackendError(f"ONNX models need the package onnx ({error}): {INSTALL_HINT}") from None


class _Header(BaseModel):
    model_config = ConfigDict(strict=True)

    format_version: int
    model_sha256: str
    precision: str
    graph_sha256: str = ""


def _graph_sha256(graph: Any) -> str:
    return hashlib.sha256(graph.graph.SerializeToString(deterministic=True)).hexdigest()


def _check_shapes(path: Path, graph: Any, info: ModelInfo) -> None:
    inputs = {name: (channels, *info.input_size) for name, channels in input_channels(info).items()}
    expected = {**inputs, "scores": (len(info.classes),), "tags": (len(info.classes),)}
    found = {
        value.name: tuple(d.dim_value for d in value.type.tensor_type.shape.dim)[1:]
        for value in (*graph.graph.input, *graph.graph.output)
    }
    for name, shape in expected.items():
        if found.get(name, ())[: len(shape)] != shape:
            raise ModelFileError(
                f"{path}: its header, with {len(info.classes)} classes at {info.input_size[0]}x{info.input_size[1]}, "
                f"contradicts its network, whose '{name}' has the shape {found.get(name)}; make it again with "
                "`deal export`"
            )


def _random_inputs(info: ModelInfo) -> Iterator[dict[str, Tensor]]:
    """Yield batches of several sizes: noise, and soft blobs, which make a network see more; depth has holes."""
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
    """Keep a library's advice to developers, given to the logger of this name, from a user's terminal."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
