"""Start a network from the model file of an earlier training: classes are mapped by name, and new ones start fresh."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deal_core.errors import ConfigError
from deal_core.models.backbone import InitialWeights
from deal_core.models.factory import create_model, with_older_defaults
from deal_core.models.model_file import LoadedModel
from deal_core.models.model_info import ModelInfo, without_initial_weights
from deal_core.structures import ClassList

_log = logging.getLogger(__name__)

_FROZEN = "freeze_batch_norm"


@dataclass(frozen=True)
class ClassChanges:
    """What became of the classes of an earlier model.

    Args:
        kept: Classes of both models, which keep their weights.
        new: Classes of the new model alone, whose weights start as those of a new network.
        dropped: Classes of the earlier model alone, whose weights are left out.
    """

    kept: tuple[str, ...]
    new: tuple[str, ...]
    dropped: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {name: list(names) for name, names in asdict(self).items()}


@dataclass(frozen=True)
class ClassRows:
    """Where a tensor holds its classes: along `axis`, from index `first` on, behind what is not a class."""

    axis: int
    first: int


def class_changes(earlier: ClassList, classes: ClassList) -> ClassChanges:
    """Return which classes both lists have, by name, and which only one of them."""
    return ClassChanges(
        kept=tuple(name for name in classes.names if name in earlier.names),
        new=tuple(name for name in classes.names if name not in earlier.names),
        dropped=tuple(name for name in earlier.names if name not in classes.names),
    )


def arguments_from(path: Path, info: ModelInfo, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a network that starts from an earlier model.

    They are those of the model; a given value replaces one of them if no weight depends on it. None stands for the
    value of the model. BatchNorm of the backbone is frozen unless `freeze_batch_norm` is given: batches of a few new
    frames are no measure of the statistics.

    Args:
        path: Path of the model, for messages.
        info: Description of the model.
        given: Arguments in the settings of the new training.

    Raises:
        ConfigError: a given value needs other weights than the model has, or names initial weights.
    """
    of_file = with_older_defaults(info.architecture, without_initial_weights(info.arguments))
    chosen = {name: value for name, value in given.items() if value is not None and name != "weights"}
    weights = given.get("weights")
    if weights not in (None, "auto", "none"):
        raise ConfigError(
            f"model.arguments.weights is {weights} and init_from is {path}: both give the first weights; leave one out"
        )
    if _FROZEN in of_file:
        chosen.setdefault(_FROZEN, True)
    merged = {**of_file, **chosen}
    if (ours := _shapes(info.architecture, 1, merged)) != (theirs := _shapes(info.architecture, 1, of_file)):
        other = [f"{n} is {of_file.get(n)!r} there and {v!r} here" for n, v in chosen.items() if of_file.get(n) != v]
        count = sum(ours.get(name) != theirs.get(name) for name in {**ours, **theirs})
        raise ConfigError(
            f"{path} has another network than model.arguments ({'; '.join(other)}; {count} tensors differ): set "
            "model=null, which takes the network of the file"
        )
    return merged


def start_from(network: nn.Module, classes: ClassList, earlier: LoadedModel, path: Path) -> ClassChanges:
    """Give a new network the weights of an earlier one; the rows of classes that only it has stay as they are.

    Args:
        network: Network with the architecture of the model and arguments by `arguments_from`.
        classes: Classes of the network.
        earlier: The earlier model.
        path: Its path, which becomes the source of the initial weights of the backbone.
    """
    changes = class_changes(earlier.info.classes, classes)
    state, theirs = network.state_dict(), earlier.network.state_dict()
    rows = class_rows(earlier.info.architecture, earlier.info.arguments)
    for name, tensor in theirs.items():
        state[name] = (
            _mapped(tensor, state[name], rows[name], earlier.info.classes, classes) if name in rows else tensor
        )
    network.load_state_dict(state)
    backbone: Any = network.backbone
    backbone.initial_weights = InitialWeights(str(path), len(backbone.state_dict()))
    if changes.dropped:
        _log.warning(
            "classes of %s that the new data does not have, and so are dropped: %s", path, _listed(changes.dropped)
        )
    if changes.new:
        _log.warning("classes that %s does not know, and so start fresh: %s", path, _listed(changes.new))
    return changes


def class_rows(name: str, arguments: Mapping[str, Any]) -> dict[str, ClassRows]:
    """Return the tensors of the network called `name` that have a row for each class, and where the rows are.

    They are the tensors whose shape changes with the number of classes.
    """
    arguments = with_older_defaults(name, without_initial_weights(arguments))
    one, two = (_shapes(name, count, arguments) for count in (1, 2))
    found = {}
    for tensor, shape in one.items():
        for axis, (fewer, more) in enumerate(zip(shape, two[tensor], strict=True)):
            if fewer != more:
                found[tensor] = ClassRows(axis, fewer - 1)
    return found


def _mapped(old: Tensor, new: Tensor, rows: ClassRows, earlier: ClassList, classes: ClassList) -> Tensor:
    """Return the new tensor with the rows of the old one for what is not a class, and for classes that both have."""
    mapped = new.clone()
    pairs = [(index, index) for index in range(rows.first)]
    pairs += [
        (rows.first + earlier.id_of(name) - 1, rows.first + classes.id_of(name) - 1)
        for name in classes.names
        if name in earlier.names
    ]
    for source, target in pairs:
        mapped.select(rows.axis, target).copy_(old.select(rows.axis, source))
    return mapped


def _shapes(name: str, num_classes: int, arguments: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        network = create_model(name, num_classes, **arguments)
    return {tensor: tuple(value.shape) for tensor, value in network.state_dict().items()}


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names)
