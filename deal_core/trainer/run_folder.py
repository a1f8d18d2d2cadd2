"""The folder of a training: settings, history, checkpoint."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from types import TracebackType
from typing import Any

import torch
import yaml
from lightning_fabric.plugins import Precision
from torch import nn
from torch.optim import Optimizer

from deal_core.errors import ConfigError, ModelFileError
from deal_core.files import replacing
from deal_core.settings_file import dump_settings
from deal_core.trainer.settings import RunSettings

SETTINGS_FILE = "settings.yaml"
HISTORY_FILE = "history.jsonl"
CHECKPOINT_FILE = "checkpoint.pt"
_MAY_CHANGE = ("device", "threshold_rule", "checkpoint_every", "log_every", "data.workers")
"""Settings that do not touch the weights: a run may go on with others."""


@dataclass
class TrainState:
    """How far a training is. Random numbers are a function of seed and step, so no state of theirs is kept."""

    total_steps: int
    step: int = 0

    def save(self, path: Path, network: nn.Module, optimizer: Optimizer, precision: Precision) -> None:
        """Write a checkpoint; the old one stays until the new one is whole.

        Raises:
            ModelFileError: it cannot be written, as on a full disk.
        """
        content = {
            "step": self.step,
            "total_steps": self.total_steps,
            "network": network.state_dict(),
            "optimizer": optimizer.state_dict(),
            "precision": precision.state_dict(),
        }
        try:
            with replacing(path, per_process=False) as temporary:
                torch.save(content, temporary)
        except (OSError, RuntimeError) as error:
            raise ModelFileError(f"{path}: the checkpoint cannot be written ({error})") from error

    def load(self, path: Path, network: nn.Module, optimizer: Optimizer, precision: Precision) -> int:
        """Go on from a checkpoint, if there is one; return its step.

        Raises:
            ModelFileError: the file is damaged, or of another network.
            ConfigError: it belongs to a training of another length.
        """
        if not path.exists():
            return 0
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            step, total = int(content["step"]), int(content["total_steps"])
            if total == self.total_steps:
                network.load_state_dict(content["network"])
                optimizer.load_state_dict(content["optimizer"])
                precision.load_state_dict(content["precision"])
        except (OSError, EOFError, RuntimeError, KeyError, IndexError, ValueError, TypeError, UnpicklingError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ModelFileError(f"{path}: damaged checkpoint ({reason}); delete it to start the run again") from None
        if total != self.total_steps:
            raise ConfigError(
                f"{path}: a checkpoint of a run of {total} steps, this one has {self.total_steps}: has the dataset "
                "changed? Choose another output, or delete the checkpoint"
            )
        self.step = step
        return step


class RunLog:
    """history.jsonl and TensorBoard, as a context manager; a resumed run drops the lines after its checkpoint."""

    def __init__(self, folder: Path, resumed_from: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        path = folder / HISTORY_FILE
        kept = "".join(line + "\n" for line in _history_lines(path, resumed_from))
        write_whole(path, kept)
        self._file = path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=resumed_from + 1)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._board.close()

    def write(self, step: int, epoch: int, values: Mapping[str, float]) -> None:
        """Add one line, and one TensorBoard point a value."""
        self._file.write(json.dumps({"step": step, "epoch": epoch, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)


def prepare_folder(settings: RunSettings) -> None:
    """Make the run folder; refuse one that holds the beginnings of a run with other settings."""
    path, text = settings.output / SETTINGS_FILE, dump_settings(settings)
    if (settings.output / CHECKPOINT_FILE).exists() and path.exists():
        try:
            there = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise ConfigError(f"{path} cannot be read ({error}): choose another output") from None
        ours = _dotted(yaml.safe_load(text))
        theirs = _dotted(there) if isinstance(there, dict) else {}
        other = [k for k in {**theirs, **ours} if theirs.get(k) != ours.get(k) and k not in _MAY_CHANGE]
        if other:
            told = ", ".join(f"{k} is {theirs.get(k)!r} there and {ours.get(k)!r} here" for k in other)
            raise ConfigError(
                f"{settings.output}: holds a run with other settings ({told}); choose another output, or delete it"
            )
    write_whole(path, text)


def _dotted(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat.update(_dotted(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value})
    return flat


def _history_lines(path: Path, last_step: int) -> Iterator[str]:
    """Yield the lines up to a step; one that a kill cut off comes after the last checkpoint, and is left out."""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else ():
        try:
            if json.loads(line)["step"] <= last_step:
                yield line
        except (ValueError, KeyError, TypeError):
            continue


def write_whole(path: Path, text: str) -> None:
    """Write a file of a run folder; the name appears only when the file is whole.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        with replacing(path, per_process=False) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error}): choose another output") from error
