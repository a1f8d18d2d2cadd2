"""Figures of the tags that a network predicts, beside those of one that always says "absent"."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from deal_core.dataset.dataset import Dataset, evenly_spread
from deal_core.dataset.transforms import resize_sample, to_tensors
from deal_core.devices import resolve_device
from deal_core.models.model_file import LoadedModel
from deal_core.models.output import CamOutput
from deal_core.structures import BoolArray, Float32Array

TAGGED_FRAMES = 300
"""Largest number of frames on which tags are predicted, evenly spread."""
FLAT = 1e-3
"""A map whose range is smaller than this share of its largest absolute logit is flat."""


@dataclass(frozen=True)
class ClassTagFigures:
    """Figures of the predicted tags of one class; nan where nothing was measured.

    Args:
        name: Name of the class.
        accuracy: Share of the frames whose tag is predicted correctly.
        always_absent: Accuracy of "always absent": the share of the frames in which the class is absent.
        ranked: Share of the pairs of a frame with and a frame without the class in which the frame with it gets the
            higher probability; 0.5 by lot.
        dead: Share of the tagged frames whose map is empty after ReLU, or flat.
    """

    name: str
    accuracy: float
    always_absent: float
    ranked: float
    dead: float


@dataclass(frozen=True)
class TagFigures:
    """Figures of the predicted tags of all classes.

    Args:
        frames: Number of frames.
        held_out: Whether the training did not see these frames.
        accuracy: Share of the known tags that are predicted correctly.
        always_absent: Share of the known tags that are absent.
        classes: Figures of each class.
    """

    frames: int
    held_out: bool
    accuracy: float
    always_absent: float
    classes: tuple[ClassTagFigures, ...]


def measure_tags(
    model: LoadedModel,
    dataset: Dataset,
    *,
    held_out: bool = False,
    device: str = "auto",
    advance: Callable[[int], None] = lambda frames: None,
) -> TagFigures | None:
    """Predict the tags of at most `TAGGED_FRAMES` frames; None for a model without tag logits or without frames.

    Args:
        model: Model with the classes of the dataset.
        dataset: Frames with their tags.
        held_out: Whether the training did not see these frames.
        device: Device of the network.
        advance: Function to call with the number of processed frames.

    Raises:
        DatasetError: a file of the dataset is missing or damaged.
        UsageError: the device is not available.
    """
    frames = evenly_spread(dataset, TAGGED_FRAMES)
    if model.info.is_segmenter or not len(frames):
        return None
    network, place = model.network, resolve_device(device)
    network.to(place)
    logits, dead = [], []
    for index in range(len(frames)):
        image = to_tensors(resize_sample(frames.load(index), model.info.input_size)).image
        with torch.inference_mode():
            output = network(image[None].to(place))
        if not isinstance(output, CamOutput):
            return None
        logits.append(torch.stack(list(output.tag_logits.values())).float().mean(0)[0].cpu().numpy())
        dead.append(is_dead(output.cams[0].float(), output.activation[0].float()).cpu().numpy())
        advance(index + 1)
    return tag_figures(dataset.classes.names, np.stack(logits), frames.tags, np.stack(dead), held_out=held_out)


def tag_figures(
    names: tuple[str, ...], logits: Float32Array, tags: Float32Array, dead: BoolArray, *, held_out: bool = False
) -> TagFigures:
    """Return the figures of predicted tags.

    Args:
        names: Names of the K classes.
        logits: (N, K) tag logits.
        tags: (N, K) tags: 1 present, 0 absent, nan unknown.
        dead: (N, K) whether the map is dead.
        held_out: Whether the training did not see these frames.
    """
    known, present = ~np.isnan(tags), tags == 1
    right = ((logits > 0) == present) & known
    classes = tuple(
        ClassTagFigures(
            name,
            _share(right[:, k], known[:, k]),
            _share(~present[:, k], known[:, k]),
            ranked(logits[present[:, k], k], logits[known[:, k] & ~present[:, k], k]),
            _share(dead[:, k], present[:, k]),
        )
        for k, name in enumerate(names)
    )
    return TagFigures(len(tags), held_out, _share(right, known), _share(~present, known), classes)


def is_dead(cams: Tensor, activation: Tensor) -> Tensor:
    """Return (K,) whether a map gives no mask: nothing is left of it after ReLU, or it is flat.

    Args:
        cams: (K, h, w) raw CAM logits.
        activation: (K, h, w) non-negative maps that masks are made of.
    """
    flat = activation.amax((1, 2)) - activation.amin((1, 2)) <= FLAT * cams.abs().amax((1, 2))
    return (activation.amax((1, 2)) <= 0) | flat


def ranked(above: Float32Array, below: Float32Array) -> float:
    """Return the share of pairs with a larger value in `above` than in `below`, equal ones as half; nan without pairs.

    >>> ranked(np.array([3.0, 1.0]), np.array([2.0, 1.0]))
    0.625
    """
    if not len(above) or not len(below):
        return math.nan
    ordered = np.sort(below)
    smaller, not_larger = (np.searchsorted(ordered, above, side=side) for side in ("left", "right"))
    return float((smaller + not_larger).sum() / (2 * len(above) * len(below)))


def _share(chosen: BoolArray, among: BoolArray) -> float:
    """Return the share of the entries of `among` that are chosen; nan without any."""
    count = int(among.sum())
    return int((chosen & among).sum()) / count if count else math.nan
