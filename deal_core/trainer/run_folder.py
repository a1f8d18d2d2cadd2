"""The folder of a training: settings, history, checkpoint."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from lightning_fabric.plugins import Precision
from torch import nn
from torch.optim import Optimizer

from deal_core.errors import ConfigError, ModelFileError
from deal_core.files import os_errors_as, read_text, replacing
from deal_core.limits import read_bytes
from deal_core.models.backbone import settle_weights
from deal_core.models.earlier_model import arguments_from
from deal_core.models.factory import OLDER_ARGUMENTS, with_older_defaults
from deal_core.models.model_info import read_info
from deal_core.models.pickled_file import read_pickled
from deal_core.ownership import remove_leftovers
from deal_core.settings_file import Settings, dump_settings
from deal_core.text_formats import FormatError, parse_json, parse_yaml
from deal_core.trainer.settings import RunSettings

SETTINGS_FILE = "settings.yaml"
HISTORY_FILE = "history.jsonl"
CHECKPOINT_FILE = "checkpoint.pt"
_MAY_CHANGE = (
    *("device", "compile", "threshold_rule", "checkpoint_every", "log_every", "data.workers", "max_loss_on_old"),
    "rounds",
)
"""Settings that do not affect the weights and may change when a run resumes."""
_FORMAT_LINE = "# Settings of a run, format 2. A run of version 0.1.0 has no such line.\n"
_OLDER: Mapping[str, Any] = {
    "data": {"crop_resample": "bilinear"},
    "deal": {"holes": "ignore", "cam_value": "relu_max", "depth_resize": "antialias"},
    "clip": {"below": 1.2},
    "optimizer": {"backbone_factor": 1.0, "layer_decay": 1.0},
    "taps": {"weight": 0.0, "start": 0.0, "warmup": 0.0},
    "bias_from_tags": False,
    "sampling": "plain",
    "rounds": 1,
}
"""What version 0.1.0 did where its settings say nothing, or had another default."""

R = TypeVar("R", bound=RunSettings)
S = TypeVar("S", bound=Settings)


@dataclass
class TrainState:
    """The progress of a training. Random numbers depend on seed and step only, so it keeps no generator state."""

    total_steps: int
    step: int = 0

    def save(self, path: Path, network: nn.Module, optimizer: Optimizer, precision: Precision) -> None:
        """Write a checkpoint, which replaces the old one when it is complete; raise `ModelFileError` on failure."""
        content = {
            "step": self.step,
            "total_steps": self.total_steps,
            "network": network.state_dict(),
            "optimizer": optimizer.state_dict(),
            "precision": precision.state_dict(),
        }
        with (
            os_errors_as(ModelFileError, f"{path}: the checkpoint cannot be written"),
            replacing(path) as temporary,
            temporary.open("wb") as file,
        ):
            try:
                torch.save(content, file)
            except RuntimeError as error:  # torch's own, behind that of the system
                raise error.__context__ if isinstance(error.__context__, OSError) else OSError(str(error)) from error

    def load(self, path: Path, network: nn.Module, optimizer: Optimizer, precision: Precision) -> int:
        """Resume from a checkpoint and return its step; return 0 if the file does not exist.

        Raises:
            ModelFileError: the file is damaged, or belongs to another network.
            ConfigError: the checkpoint belongs to a training of another length.
        """
        if not path.exists():
            return 0
        try:
            content = read_pickled(path)
            step, total = int(content["step"]), int(content["total_steps"])
            if total == self.total_steps:
                network.load_state_dict(content["network"])
                optimizer.load_state_dict(content["optimizer"])
                precision.load_state_dict(content["precision"])
        except Exception as error:  # PyTorch, pickle and struct raise different errors on damaged bytes
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise ModelFileError(f"{path}: damaged checkpoint ({reason}); delete it to start the run again") from None
        if total != self.total_steps:
            raise ConfigError(
                f"{path}: the checkpoint is from a run of {total} steps, this one has {self.total_steps}: has the "
                "dataset changed? Choose another output, or delete the checkpoint"
            )
        self.step = step
        return step


class RunLog:
    """Context manager that logs to history.jsonl and TensorBoard; a resumed run drops lines after its checkpoint."""

    def __init__(self, folder: Path, resumed_from: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        path = folder / HISTORY_FILE
        write_whole(path, "".join(line + "\n" for line in _history_lines(path, resumed_from)))
        self._failing = f"{folder}: the history cannot be written"
        with os_errors_as(ModelFileError, self._failing):
            self._file = path.open("a", encoding="utf-8")
            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=resumed_from + 1)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *raised: object) -> None:
        with os_errors_as(ModelFileError, self._failing) if raised[0] is None else suppress(OSError):
            self._file.close()
            self._board.close()

    def write(self, step: int, epoch: int, values: Mapping[str, float]) -> None:
        """Add one line to the history and one TensorBoard point per value."""
        with os_errors_as(ModelFileError, self._failing):
            self._file.write(json.dumps({"step": step, "epoch": epoch, **values}) + "\n")
            self._file.flush()
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def sync(self) -> None:
        """Return when the history is on the disk: a checkpoint must not be there before the lines that lead to it."""
        with os_errors_as(ModelFileError, self._failing):
            os.fsync(self._file.fileno())


def as_begun(settings: R) -> R:
    """Return the settings with which a run begins, or with which the one in the output folder continues.

    With `init_from`, the network is that of the file, see `deal_core.models.earlier_model.arguments_from`. Otherwise,
    `weights: auto` becomes what it means for this run, see `deal_core.models.backbone.settle_weights`. Where a run of
    version 0.1.0 began before a setting existed, or with another default, the setting keeps that value unless it is
    given now.
    """
    if settings.init_from is not None:
        return _of_earlier(settings, settings.init_from)
    path = settings.output / SETTINGS_FILE
    has_begun = (settings.output / CHECKPOINT_FILE).exists() and path.exists()
    if not has_begun or _is_new(_read(path)):
        if settings.model.arguments.get("weights") != "auto":
            return settings
        there = _settings_in(_read(path), {}) if has_begun else {}
        weights = {"weights": there.get("model.arguments.weights")}
        return _with_arguments(settings, settle_weights(settings.model.arguments, weights))
    begun = _unless_given(settings, _OLDER)
    return _with_arguments(begun, with_older_defaults(settings.model.name, settings.model.arguments))


def _of_earlier(settings: R, path: Path) -> R:
    info = read_info(path)
    if "name" in settings.model.model_fields_set and settings.model.name != info.architecture:
        raise ConfigError(
            f"{path} is a {info.architecture}, and model.name is {settings.model.name}: set model=null, which takes "
            "the network of the file"
        )
    model = settings.model.model_copy(update={"name": info.architecture})
    named = settings.model_copy(update={"model": model})
    return _with_arguments(named, arguments_from(path, info, settings.model.arguments))


def _with_arguments(settings: R, arguments: Mapping[str, Any]) -> R:
    model = settings.model.model_copy(update={"arguments": arguments})
    return settings.model_copy(update={"model": model})


def prepare_folder(settings: RunSettings) -> None:
    """Make the run folder, or remove what a killed training left there.

    Raises:
        ConfigError: the folder holds a checkpoint of a run with other settings, or cannot be written.
    """
    path, text = settings.output / SETTINGS_FILE, _FORMAT_LINE + dump_settings(settings)
    if (settings.output / CHECKPOINT_FILE).exists() and path.exists():
        there = _read(path)
        ours = _dotted(yaml.safe_load(text))
        theirs = _settings_in(there, ours)
        other = [k for k in {**theirs, **ours} if theirs.get(k) != ours.get(k) and k not in _MAY_CHANGE]
        if other:
            told = ", ".join(f"{k} is {theirs.get(k)!r} there and {ours.get(k)!r} here" for k in other)
            raise ConfigError(
                f"{settings.output}: holds a run with other settings ({told}); choose another output, or delete it"
            )
    if path.exists():
        remove_leftovers(settings.output)
    write_whole(path, text)


def _read(path: Path) -> str:
    try:
        return read_text(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read ({error}): choose another output") from None


def _settings_in(text: str, ours: Mapping[str, Any]) -> dict[str, Any]:
    """Return the dotted settings of a file; what version 0.1.0 did not write has the value that it meant."""
    try:
        there = parse_yaml(text)
    except FormatError as error:
        raise ConfigError(f"{SETTINGS_FILE} cannot be read ({error}): choose another output") from None
    theirs = _dotted(there) if isinstance(there, dict) else {}
    if _is_new(text):
        return theirs
    meant = _dotted({**_OLDER, "model": {"arguments": OLDER_ARGUMENTS}})
    return {**{k: v for k, v in meant.items() if k in ours}, **theirs}


def _is_new(text: str) -> bool:
    return text.startswith(_FORMAT_LINE)


def _unless_given(settings: S, older: Mapping[str, Any]) -> S:
    """Return the settings with older values where none was given."""
    changed: dict[str, Any] = {}
    for name, value in older.items():
        now = getattr(settings, name, None)
        if isinstance(now, Settings):
            changed[name] = _unless_given(now, value)
        elif name in type(settings).model_fields and name not in settings.model_fields_set:
            changed[name] = value
    return settings.model_copy(update=changed)


def _dotted(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat.update(_dotted(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value})
    return flat


def _history_lines(path: Path, last_step: int) -> Iterator[str]:
    """Yield the lines up to a step, without lines that an interrupted write left incomplete."""
    for line in read_bytes(path).decode(errors="replace").splitlines() if path.exists() else ():
        try:
            if parse_json(line, finite=False)["step"] <= last_step:
                yield line
        except (ValueError, KeyError, TypeError):
            continue


def write_whole(path: Path, text: str) -> None:
    """Write a file that appears only when it is complete; raise `ConfigError` if it cannot be written."""
    with os_errors_as(ConfigError, f"{path} cannot be written (choose another output)"), replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
