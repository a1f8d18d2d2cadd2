"""The regions of all training frames as one set of tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from deal_core.dataset.dataset import Dataset
from deal_core.regions.cache import FrameRegions
from deal_core.regions.proposals import overlaps_of, smaller
from deal_core.structures import BoolArray, Float32Array, Int64Array

_LEAST_STD = 1e-3
LINKED = 0.5
"""Least intersection over union of two regions of neighbouring frames that show the same thing."""
SAME_THING = 0.5
"""Least intersection over union of a region with a known thing whose name it takes."""
APART = 0.1
"""Largest share of a region that lies on known things of a class, if the region is not of this class."""


class KnownThing(Protocol):
    """A thing that a person showed."""

    @property
    def label(self) -> int:
        """Index of its class."""
        ...

    @property
    def mask(self) -> BoolArray:
        """Its pixels, (H, W)."""
        ...


class KnownThings(Protocol):
    """What a person showed in an image."""

    @property
    def things(self) -> Sequence[KnownThing]:
        """The things."""
        ...

    @property
    def reached(self) -> BoolArray:
        """Classes (K,) of which all things of the image are among them."""
        ...


FindThings = Callable[[str], KnownThings | None]
"""Returns what is known of the frame with this key; None for nothing."""


@dataclass(frozen=True, eq=False)
class RegionBags:
    """The regions of all training frames: a frame is a bag of regions, of which only the tags are known.

    Args:
        features: (R, D) float32 features.
        frame: (R,) index of the frame of each region, int64.
        votes: (R,) weight of each region in the votes of its frame, in (0, 1].
        tags: (F, K) with 1 for present, 0 for absent and nan for unknown classes.
        segments: (F,) number of the segment of each frame, int64.
        links: (L, 2) pairs of regions that show the same thing in neighbouring frames of a segment, int64.
        names: (R, K) with 1 for regions of the class, 0 for regions of another one or of none, and nan where unknown;
            see `region_names`. None: no region is known.
    """

    features: Tensor
    frame: Tensor
    votes: Tensor
    tags: Tensor
    segments: Tensor
    links: Tensor
    names: Tensor | None = None

    def of_segments(self, segments: Tensor) -> RegionBags:
        """Return the same regions with the tags and names of all other segments unknown."""
        chosen = torch.isin(self.segments, segments)
        tags = torch.where(chosen[:, None], self.tags, torch.nan)
        if self.names is None:
            return replace(self, tags=tags)
        return replace(self, tags=tags, names=torch.where(chosen[self.frame][:, None], self.names, torch.nan))

    def with_features(self, columns: Sequence[int]) -> RegionBags:
        """Return the same regions with some columns of their features."""
        return replace(self, features=self.features[:, list(columns)])


class Standardised(NamedTuple):
    """Bags whose features have mean 0 and standard deviation 1, and the (D,) mean and deviation they had before."""

    bags: RegionBags
    mean: Tensor
    std: Tensor


def standardise(bags: RegionBags, mean: Tensor | None = None, std: Tensor | None = None) -> Standardised:
    """Standardise each feature over all regions, or by a given (D,) mean and std.

    A feature that hardly varies becomes small.
    """
    if mean is None or std is None:
        mean, std = bags.features.mean(0), bags.features.std(0, correction=0).clamp(min=_LEAST_STD)
    return Standardised(replace(bags, features=(bags.features - mean) / std), mean, std)


def make_bags(frames: Sequence[FrameRegions], dataset: Dataset, find_things: FindThings | None = None) -> RegionBags:
    """Return the regions of the frames of a dataset, in its order, with the names that known things give them."""
    numbers = {name: number for number, name in enumerate(sorted({(f.recording, f.segment) for f in dataset.frames}))}
    segments = [numbers[frame.recording, frame.segment] for frame in dataset.frames]
    counts = np.array([len(regions) for regions in frames])
    return RegionBags(
        features=torch.from_numpy(np.concatenate([regions.features for regions in frames]).astype(np.float32)),
        frame=torch.from_numpy(np.repeat(np.arange(len(frames)), counts)),
        votes=torch.from_numpy(np.concatenate([regions.votes for regions in frames])),
        tags=torch.from_numpy(dataset.tags),
        segments=torch.tensor(segments),
        links=torch.from_numpy(_links(frames, segments, counts)),
        names=_names(frames, dataset, find_things) if find_things else None,
    )


def region_names(regions: BoolArray, known: KnownThings | None, num_classes: int) -> Float32Array:
    """Return (N, K) what known things say about regions: 1 of this class, 0 not of it, nan unknown.

    A region is of the class of a thing if their intersection over union is `SAME_THING` at least. It is not of a class
    that `known` has reached if at most `APART` of it lies on things of this class. Parts of things stay unknown.

    Args:
        regions: (N, h, w) masks, at the size of the image or smaller.
        known: What is known of the image.
        num_classes: Number of classes K.
    """
    names = np.full((len(regions), num_classes), np.nan, np.float32)
    if known is None or not known.things or not len(regions):
        return names
    labels = np.array([thing.label for thing in known.things])
    things = smaller(np.stack([thing.mask for thing in known.things]), max(regions.shape[1:]))
    same = overlaps_of(regions, things) >= SAME_THING
    for label in np.flatnonzero(known.reached):
        mine = labels == label
        inside = (regions & things[mine].any(0)).sum((1, 2)) / np.maximum(regions.sum((1, 2)), 1)
        names[inside <= APART, label] = 0
    for label in np.unique(labels):
        of_class = same[:, labels == label].any(1)
        names[of_class] = 0
        names[of_class, label] = 1
    return names


def join_bags(one: RegionBags, two: RegionBags) -> RegionBags:
    """Return the regions of both, those of `two` last."""
    frames, regions = len(one.tags), len(one.frame)
    return RegionBags(
        features=torch.cat([one.features, two.features]),
        frame=torch.cat([one.frame, two.frame + frames]),
        votes=torch.cat([one.votes, two.votes]),
        tags=torch.cat([one.tags, two.tags]),
        segments=torch.cat([one.segments, two.segments + int(one.segments.max()) + 1]),
        links=torch.cat([one.links, two.links + regions]),
        names=_join_names(one, two),
    )


def best_of_frames(probabilities: Tensor, bags: RegionBags) -> Tensor:
    """Return (E, F, K): the probability, by each head, of the region that the mean of the heads prefers; 0 without.

    Args:
        probabilities: (E, R, K) probabilities of the classes.
        bags: Regions and frames.
    """
    frames, classes = bags.tags.shape
    best = probabilities.new_zeros(len(probabilities), frames, classes)
    counts = torch.bincount(bags.frame, minlength=frames).tolist()
    for index, rows in enumerate(torch.arange(len(bags.frame)).split(counts)):
        if len(rows):
            mine = probabilities[:, rows]
            best[:, index] = mine.gather(1, mine.mean(0).argmax(0).expand(len(mine), 1, classes))[:, 0]
    return best


def _names(frames: Sequence[FrameRegions], dataset: Dataset, find_things: FindThings) -> Tensor:
    pairs = zip(frames, dataset.frames, strict=True)
    found = [region_names(regions.masks, find_things(frame.key), len(dataset.classes)) for regions, frame in pairs]
    return torch.from_numpy(np.concatenate(found))


def _join_names(one: RegionBags, two: RegionBags) -> Tensor | None:
    if one.names is None and two.names is None:
        return None
    names = (bags.names if bags.names is not None else _unknown_names(bags) for bags in (one, two))
    return torch.cat(list(names))


def _unknown_names(bags: RegionBags) -> Tensor:
    return torch.full((len(bags.frame), bags.tags.shape[1]), torch.nan)


def _links(frames: Sequence[FrameRegions], segments: Sequence[int], counts: Int64Array) -> Int64Array:
    begins = np.concatenate([[0], counts.cumsum()])
    found = [np.zeros((0, 2), np.int64)]
    for index in range(1, len(frames)):
        one, two = frames[index - 1], frames[index]
        if segments[index] == segments[index - 1] and one.masks.shape[1:] == two.masks.shape[1:]:
            pairs = np.argwhere(overlaps_of(one.masks, two.masks) >= LINKED)
            found.append(pairs + begins[index - 1 : index + 1])
    return np.concatenate(found)
