"""Settings of a fine-tuning: those of the earlier run, with defaults that suit few new frames."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from deal_core.dataset.open import open_dataset
from deal_core.errors import UsageError
from deal_core.models.model_info import read_info
from deal_core.regions.settings import RegionTrainSettings
from deal_core.settings_file import load_settings
from deal_core.trainer.frozen_views import PIXEL_CHANGES
from deal_core.trainer.run_folder import SETTINGS_FILE
from deal_core.trainer.settings import DistillSettings, RunSettings, TrainSettings

_BATCH = 16
_LEAST_EPOCHS = 2
_STEPS = 400
_DEFAULTS = ("optimizer.learning_rate=0.001", "optimizer.backbone_factor=0.3", "optimizer.layer_decay=0.9")
_NOT_OF_THE_NEW_DATA = ('data.format="deal"', 'data.split=""', "data.recordings=[]", "data.depth=null")

R = TypeVar("R", bound=RunSettings)


@dataclass(frozen=True)
class FineTuneRequest:
    """What a person says about a fine-tuning.

    Args:
        dataset: Folder of the new dataset.
        model: Model file to start from.
        output: Run folder.
        rehearse: Folder of the earlier dataset; None for no rehearsal.
        share: Share of the training that its frames make up.
        masks: For a segmenter: folder of pseudo masks of the new dataset, or "drawn".
        max_loss: Largest fall of the figure on the earlier dataset.
        features: Folder of feature maps, for a frozen backbone.
        steps: Number of optimiser steps, about; None for 400, or for the own number of a region model.
        overrides: Further settings as `key=value`, which win.
    """

    dataset: Path
    model: Path
    output: Path
    rehearse: Path | None = None
    share: float = 0.3
    masks: str | None = None
    max_loss: float | None = None
    features: Path | None = None
    steps: int | None = None
    overrides: Sequence[str] = ()


def fine_tune_settings(request: FineTuneRequest) -> TrainSettings | DistillSettings | RegionTrainSettings:
    """Return the settings of a training that starts from the model of a request.

    They are those of the run folder of the model, where the model lies in one: image size, crops and losses stay as
    they were. The number of epochs follows from that of the steps, since an epoch of few frames is short.

    Raises:
        ModelFileError: the model cannot be read.
        ConfigError: the settings beside it cannot be read, or an override is wrong.
        DatasetError: the new dataset cannot be read.
        UsageError: a segmenter lacks masks, or another network has some.
    """
    info = read_info(request.model)
    if info.is_segmenter:
        if request.masks is None:
            raise UsageError(
                f"{request.model} is a segmenter, which learns from masks: give --masks, the folder of `deal cams` for "
                f"{request.dataset}, or drawn"
            )
        return _with_length(DistillSettings, request, [f"masks={_text(request.masks)}"])
    if request.masks is not None:
        raise UsageError(f"{request.model} is a {info.architecture}, which learns from tags: leave out --masks")
    if info.names_regions:
        if request.features is not None:
            raise UsageError(f"{request.model} is a region model, which keeps its own features: leave out --features")
        return _of_regions(request)
    return _with_length(TrainSettings, request, ["fsl.weight=0"] if request.features else [])


def _of_regions(request: FineTuneRequest) -> RegionTrainSettings:
    steps = [] if request.steps is None else [f"head.steps={request.steps}"]
    overrides = [*_common(request), "network=null", *steps, *request.overrides]
    return load_settings(RegionTrainSettings, _beside(request.model), overrides)


def _with_length(kind: type[R], request: FineTuneRequest, own: Sequence[str]) -> R:
    """Return the settings with an epoch count that gives the wanted number of steps."""
    first = _load(kind, request, own)
    data = first.data
    count = len(open_dataset(data).split_by_segment(data.validation_fraction, seed=first.seed).train)
    given = {override.partition("=")[0].strip() for override in request.overrides}
    batch = first.batch_size if "batch_size" in given else max(min(_BATCH, count), 1)
    shown = round(count / (1 - (data.rehearse[1] if data.rehearse else 0.0)))
    epochs = max(round((request.steps or _STEPS) / max(shown // batch, 1)), _LEAST_EPOCHS)
    return _load(kind, request, [*own, f"batch_size={batch}", f"epochs={epochs}"])


def _load(kind: type[R], request: FineTuneRequest, own: Sequence[str]) -> R:
    overrides = [
        *_common(request),
        "model=null",
        f"data.image_size={list(read_info(request.model).input_size)}",
        *_DEFAULTS,
        *(_frozen(request.features) if request.features else ()),
        *own,
        *request.overrides,
    ]
    return load_settings(kind, _beside(request.model), overrides)


def _common(request: FineTuneRequest) -> list[str]:
    """Return the settings that every training from an earlier model has."""
    return [
        f"data.path={_text(request.dataset)}",
        f"output={_text(request.output)}",
        f"init_from={_text(request.model)}",
        *_NOT_OF_THE_NEW_DATA,
        f"data.rehearse={json.dumps([str(request.rehearse), request.share]) if request.rehearse else 'null'}",
        f"max_loss_on_old={json.dumps(request.max_loss)}",
    ]


def _beside(model: Path) -> Path | None:
    """Return the settings in the run folder of a model; None if it lies elsewhere."""
    file = model.parent / SETTINGS_FILE
    return file if file.is_file() else None


def _frozen(features: Path) -> list[str]:
    """Return the settings for a frozen backbone with kept maps: views differ by flips alone."""
    return [
        f"data.features={_text(features)}",
        "data.crop=grid",
        "data.crop_scale=[1, 1]",
        *(f"data.{name}=0" for name in PIXEL_CHANGES),
        "optimizer.backbone_factor=0",
    ]


def _text(value: Path | str) -> str:
    """Return a text as YAML reads it back, whatever it contains."""
    return json.dumps(str(value))
