"""Reading of .onnx files by `deal export`: the model's description, checked against the network, without running it.

Needs neither the package onnx nor PyTorch. The file format is the message `ModelProto` of
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto; the numbers of its fields are below.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from deal_core.errors import ModelFileError
from deal_core.limits import read_bytes, refuse_over
from deal_core.models.header import HeaderError, entry, read_header
from deal_core.models.model_info import ModelInfo, info_from_metadata, info_to_metadata, refuse_newer_format
from deal_core.runtime.protobuf import ProtobufError, integer, messages, text

OPSET = 18
FORMAT_VERSION = 1
_KEY = "deal_onnx"
_AGAIN = "make it again with `deal export`"

_GRAPH, _OPSETS, _METADATA = 7, 8, 14  # of ModelProto
_DOMAIN, _VERSION = 1, 2  # of OperatorSetIdProto
_ENTRY_KEY, _ENTRY_VALUE = 1, 2  # of StringStringEntryProto
_NODES, _INITIALIZERS, _INPUTS, _OUTPUTS = 1, 5, 11, 12  # of GraphProto
_ATTRIBUTES = 5  # of NodeProto
_ATTRIBUTE_TENSOR, _SUBGRAPH, _SUBGRAPHS = 5, 6, 11  # of AttributeProto
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14  # of TensorProto
_NAME, _TYPE = 1, 2  # of ValueInfoProto
_TENSOR, _SHAPE, _DIMENSION, _LENGTH = 1, 2, 1, 1  # of TypeProto, its tensor, its shape, its dimensions


@dataclass(frozen=True, eq=False)
class OnnxModel:
    """The content of an .onnx file.

    Args:
        data: Content of the file as bytes.
        info: Description of the model.
        model_sha256: SHA-256 of the .safetensors file from which it was exported.
        precision: "float32" or "int8".
    """

    data: bytes
    info: ModelInfo
    model_sha256: str
    precision: str


def input_channels(info: ModelInfo) -> dict[str, int]:
    """Return the channels of each input of the ONNX model, by name."""
    return {"image": 3, "depth": 1} if info.uses_depth else {"image": 3}


def onnx_metadata(info: ModelInfo, model_sha256: str, precision: str, graph: bytes) -> dict[str, str]:
    """Return the metadata of an .onnx file: the description of the model, and a hash of the network against damage."""
    header = {
        "format_version": FORMAT_VERSION,
        "model_sha256": model_sha256,
        "precision": precision,
        "graph_sha256": hashlib.sha256(graph).hexdigest(),
    }
    return {**info_to_metadata(info), _KEY: json.dumps(header)}


def read_onnx(path: Path) -> OnnxModel:
    """Read an .onnx file by `deal export`, without running it.

    Raises:
        ModelFileError: the file is missing, damaged, not made by `deal export`, or of another format.
    """
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing"
        raise ModelFileError(f"{path}: expected a model file (.onnx), found {found}")
    try:
        return _read(path, read_bytes(path, "onnx_bytes"))
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read ({error.strerror or error})") from None
    except ProtobufError as error:
        raise ModelFileError(f"{path}: damaged or truncated, or not an .onnx file ({error}); {_AGAIN}") from None


def _read(path: Path, data: bytes) -> OnnxModel:
    model = memoryview(data)
    metadata = {text(item, _ENTRY_KEY): text(item, _ENTRY_VALUE) for item in messages(model, _METADATA)}
    if _KEY not in metadata:
        raise ModelFileError(f"{path}: an .onnx file that is not by `deal export`; {_AGAIN}")
    info = info_from_metadata(path, metadata)
    try:
        header = read_header(metadata[_KEY])
        refuse_newer_format(path, entry(header, "format_version", int), FORMAT_VERSION)
        model_sha256, precision = entry(header, "model_sha256", str), entry(header, "precision", str)
        graph_sha256 = entry({"graph_sha256": "", **header}, "graph_sha256", str)  # older files have none
    except HeaderError as error:
        raise ModelFileError(f"{path}: its header is damaged ({error}); {_AGAIN}") from None
    opsets = [integer(found, _VERSION) for found in messages(model, _OPSETS) if text(found, _DOMAIN) in ("", "ai.onnx")]
    if opsets != [OPSET]:
        raise ModelFileError(f"{path}: expected ONNX opset {OPSET}, found {opsets}; {_AGAIN}")
    graph = b"".join(messages(model, _GRAPH))
    if graph_sha256 not in ("", hashlib.sha256(graph).hexdigest()):
        raise ModelFileError(f"{path}: damaged: the network is not the exported one; copy it again, or {_AGAIN}")
    _check_shapes(path, memoryview(graph), info)
    _check_contents(path, memoryview(graph))
    return OnnxModel(data, info, model_sha256, precision)


def _check_shapes(path: Path, graph: memoryview, info: ModelInfo) -> None:
    inputs = {name: (channels, *info.input_size) for name, channels in input_channels(info).items()}
    expected = {**inputs, "scores": (len(info.classes),), "tags": (len(info.classes),)}
    found = dict(_name_and_shape(value) for number in (_INPUTS, _OUTPUTS) for value in messages(graph, number))
    for name, shape in expected.items():
        if found.get(name, ())[: len(shape)] != shape:
            raise ModelFileError(
                f"{path}: its header, with {len(info.classes)} classes at {info.input_size[0]}x{info.input_size[1]}, "
                f"contradicts its network, where '{name}' has the shape {found.get(name)}; {_AGAIN}"
            )


def _check_contents(path: Path, graph: memoryview) -> None:
    """Refuse weights that lie in other files, which may be any file, and loops, which may have no end."""
    tensors, nodes = messages(graph, _INITIALIZERS), messages(graph, _NODES)
    refuse_over("onnx_nodes", len(nodes), "operators", lambda sentence: ModelFileError(f"{path}: {sentence}"))
    for node in nodes:
        for attribute in messages(node, _ATTRIBUTES):
            if messages(attribute, _SUBGRAPH) or messages(attribute, _SUBGRAPHS):
                raise ModelFileError(
                    f"{path}: its network has a loop or branch, which none of `deal export` has; {_AGAIN}"
                )
            tensors += messages(attribute, _ATTRIBUTE_TENSOR)
    if any(integer(tensor, _DATA_LOCATION) or messages(tensor, _EXTERNAL_DATA) for tensor in tensors):
        raise ModelFileError(f"{path}: some of its weights are in another file, which is not read; {_AGAIN}")


def _name_and_shape(value: memoryview) -> tuple[str, tuple[int, ...]]:
    """Return the name of an input or output, and its lengths behind the batch axis; 0 where a length is free."""
    found = [value]
    for number in (_TYPE, _TENSOR, _SHAPE, _DIMENSION):
        found = [inner for message in found for inner in messages(message, number)]
    return text(value, _NAME), tuple(integer(dimension, _LENGTH) for dimension in found)[1:]
