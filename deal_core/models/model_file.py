"""Model files: .safetensors files with weights, and with the description of `model_info` in the header.

They contain only tensors and JSON, so loading a file never runs code from it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from deal_core.errors import ConfigError, ModelFileError
from deal_core.files import os_errors_as, replacing
from deal_core.models.factory import create_model, settled_arguments, with_older_defaults
from deal_core.models.model_info import FORMAT_VERSION as FORMAT_VERSION
from deal_core.models.model_info import ModelInfo as ModelInfo
from deal_core.models.model_info import Threshold as Threshold
from deal_core.models.model_info import info_from_metadata, info_to_metadata, open_tensors, without_initial_weights
from deal_core.models.model_info import read_info as read_info
from deal_core.structures import ClassList

_MADE_FOR_EACH, _MADE_BESIDE = 3, 1000


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A network in evaluation mode on the CPU, its description, and the SHA-256 of its file."""

    network: nn.Module
    info: ModelInfo
    sha256: str


def save_model(path: Path, network: nn.Module, info: ModelInfo) -> None:
    """Write a model file; it appears under its name only when it is complete.

    The file also holds the arguments that the network settled itself, such as the colours that its weights expect.

    Raises:
        ModelFileError: the file cannot be written; an existing file is kept.
    """
    tensors: dict[str, Tensor] = {n: t.detach().cpu().contiguous() for n, t in network.state_dict().items()}
    header = info_to_metadata(replace(info, arguments=settled_arguments(network, info.arguments)))
    with os_errors_as(ModelFileError, f"{path}: the model cannot be written there"), replacing(path) as temporary:
        temporary.write_bytes(save(tensors, header))  # `save_file` would let only this user read the file


def load_model(path: Path, *, expected_classes: ClassList | None = None) -> LoadedModel:
    """Load a .safetensors model file; `expected_classes` are the class names, in order, that it must have.

    Raises:
        ModelFileError: the file is missing, truncated, not a DEAL model, of a newer format, or for other classes.
    """
    with open_tensors(path, "pt") as file:
        info = info_from_metadata(path, file.metadata())
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    if expected_classes is not None and expected_classes.names != info.classes.names:
        raise ModelFileError(
            f"{path}: expected a model for the classes {list(expected_classes.names)}, "
            f"found one for {list(info.classes.names)}"
        )
    try:
        arguments = with_older_defaults(info.architecture, without_initial_weights(info.arguments))
        # The file is only believed to hold a network that its tensors fill: first without memory for them.
        with torch.device("meta"), _at_most(len(shapes)):
            wanted = _shapes(create_model(info.architecture, len(info.classes), **arguments))
        _refuse_other_shapes(path, info, wanted, shapes)
        network = create_model(info.architecture, len(info.classes), **arguments)
    except ConfigError as error:
        raise ModelFileError(f"{path}: the network in the header cannot be made: {error}") from None
    with open_tensors(path, "pt") as file:
        network.load_state_dict({name: file.get_tensor(name) for name in shapes})
    return LoadedModel(network.eval(), info, hashlib.sha256(path.read_bytes()).hexdigest())


def _shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def _refuse_other_shapes(
    path: Path, info: ModelInfo, wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]
) -> None:
    wrong = [name for name in {**wanted, **found} if wanted.get(name) != found.get(name)]
    if wrong:
        raise ModelFileError(
            f"{path}: weights do not fit '{info.architecture}': {len(wrong)} tensors are missing, unknown or of "
            f"another shape, the first is '{wrong[0]}'"
        )


@contextmanager
def _at_most(tensors: int) -> Iterator[None]:
    """Let no network be made in the block that has more parameters than a file has tensors."""
    made = 0

    def count(*_: object) -> None:
        nonlocal made
        made += 1
        # Parts of a network that are not kept, such as the classifier of a backbone, are made, too.
        if made > _MADE_FOR_EACH * tensors + _MADE_BESIDE:
            raise ValueError(f"it has more than {made - 1} parameters, but the file has {tensors} tensors")

    hook = nn.modules.module.register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


MODEL_FILE = "model.safetensors"
"""Name of a model file in a run folder."""
