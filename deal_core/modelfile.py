"""Model files: one .safetensors that carries its own classes, architecture, input size and threshold.

Nothing in it can run code: tensors, and JSON in the header.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from deal_core.data.sample import ClassList
from deal_core.errors import DatasetError, ModelFileError
from deal_core.models.factory import create_model

FORMAT_VERSION = 1
_HEADER_KEY = "deal"


@dataclass(frozen=True)
class Threshold:
    """The background threshold on class scores in [0, 1], and the rule that chose it."""

    value: float
    rule: str


@dataclass(frozen=True)
class ModelInfo:
    """Everything about a model but its weights.

    Args:
        architecture: name for `create_model`.
        arguments: its arguments, without where initial weights came from.
        classes: the foreground classes.
        input_size: (height, width) at which the network works.
        threshold: background threshold.
        training: plain facts about the training (steps, losses, dataset), for people.
        format_version: of the file it was read from.
    """

    architecture: str
    arguments: Mapping[str, Any]
    classes: ClassList
    input_size: tuple[int, int]
    threshold: Threshold
    training: Mapping[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A network in evaluation mode on the CPU, what describes it, and the SHA-256 of its file."""

    network: nn.Module
    info: ModelInfo
    sha256: str


def save_model(path: Path, network: nn.Module, info: ModelInfo) -> None:
    """Write a model file; the name appears only when the file is whole."""
    tensors: dict[str, Tensor] = {n: t.detach().cpu().contiguous() for n, t in network.state_dict().items()}
    header = {
        "format_version": FORMAT_VERSION,
        "architecture": info.architecture,
        "arguments": {**info.arguments, **({"weights": "none"} if "weights" in info.arguments else {})},
        "classes": [
            {"name": n, "color": list(c)} for n, c in zip(info.classes.names, info.classes.colors, strict=True)
        ],
        "input_size": list(info.input_size),
        "threshold": dataclasses.asdict(info.threshold),
        "training": info.training,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file(tensors, temporary, metadata={_HEADER_KEY: json.dumps(header)})
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_info(path: Path) -> ModelInfo:
    """Read what describes a model, without its weights.

    Raises:
        ModelFileError: the file is missing, truncated, not a DEAL model, or of a newer format.
    """
    with _open(path) as file:
        return _parse_header(path, file.metadata())


def load_model(path: Path, *, expected_classes: ClassList | None = None) -> LoadedModel:
    """Load a model file.

    Args:
        path: the .safetensors file.
        expected_classes: refuse a model whose class names are others, or in another order.

    Raises:
        ModelFileError: the file is missing, truncated, not a DEAL model, of a newer format, or for other classes.
    """
    with _open(path) as file:
        info = _parse_header(path, file.metadata())
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    if expected_classes is not None and expected_classes.names != info.classes.names:
        raise ModelFileError(
            f"{path}: expected a model for the classes {list(expected_classes.names)}, "
            f"found one for {list(info.classes.names)}"
        )
    network = create_model(info.architecture, len(info.classes), **info.arguments)
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise ModelFileError(f"{path}: weights do not fit '{info.architecture}': {error}") from None
    return LoadedModel(network.eval(), info, hashlib.sha256(path.read_bytes()).hexdigest())


def _open(path: Path) -> Any:
    if not path.is_file():
        raise ModelFileError(
            f"{path}: expected a model file (.safetensors), found {'a folder' if path.is_dir() else 'nothing'}"
        )
    try:
        return safe_open(str(path), framework="pt")
    except (SafetensorError, OSError) as error:
        raise ModelFileError(
            f"{path}: damaged or truncated, or not a .safetensors file ({error}); copy it again from where it was made"
        ) from None


def _parse_header(path: Path, metadata: Mapping[str, str] | None) -> ModelInfo:
    if not metadata or _HEADER_KEY not in metadata:
        raise ModelFileError(
            f"{path}: a .safetensors file without a DEAL header; expected a model written by `deal train`"
        )
    try:
        header = json.loads(metadata[_HEADER_KEY])
        version = int(header["format_version"])
        if version > FORMAT_VERSION:
            raise ModelFileError(
                f"{path}: format {version} is newer than this software reads (up to {FORMAT_VERSION}); update deal_ros"
            )
        return ModelInfo(
            architecture=str(header["architecture"]),
            arguments=dict(header["arguments"]),
            classes=ClassList(
                tuple(c["name"] for c in header["classes"]), tuple(tuple(c["color"]) for c in header["classes"])
            ),
            input_size=(int(header["input_size"][0]), int(header["input_size"][1])),
            threshold=Threshold(float(header["threshold"]["value"]), str(header["threshold"]["rule"])),
            training=dict(header["training"]),
            format_version=version,
        )
    except (KeyError, TypeError, ValueError, IndexError, DatasetError) as error:
        raise ModelFileError(f"{path}: the header is damaged ({type(error).__name__}: {error})") from None
