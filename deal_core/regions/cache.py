"""Regions and features of frames, kept in a folder so that heads train in seconds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deal_core.array_files import keep_arrays, read_kept_arrays
from deal_core.dataset.dataset import Dataset
from deal_core.features.digest import folder_name, pixels_name, weights_digest
from deal_core.models.region_mil import RegionMil
from deal_core.regions.features import region_features
from deal_core.regions.proposals import propose_regions, smaller, vote_weights
from deal_core.structures import BoolArray, DepthKind, Float32Array, Sample

_VERSION = 1
_LONGEST = 96


@dataclass(frozen=True, eq=False)
class FrameRegions:
    """The regions of a frame.

    Args:
        features: (N, D) float16 features, as in `region_features`.
        votes: (N,) weights, as in `vote_weights`.
        masks: (N, h, w) masks at a reduced size, for the overlap with neighbouring frames.
    """

    features: npt.NDArray[np.float16]
    votes: Float32Array
    masks: BoolArray

    def __len__(self) -> int:
        return len(self.features)


def frame_regions(
    network: RegionMil,
    dataset: Dataset,
    size: tuple[int, int],
    folder: Path,
    *,
    arguments: Mapping[str, Any],
    advance: Callable[[int], None] = lambda frames: None,
) -> list[FrameRegions]:
    """Return the regions of all frames, in order; images in `folder` are not computed again.

    The name of a subfolder depends on the network, its weights and the image size, that of a file on the pixels.

    Args:
        network: Network whose backbone makes the features.
        dataset: Frames.
        size: Size (height, width) of the image for the network.
        folder: Folder for the regions.
        arguments: Arguments of the network.
        advance: Function to call with the number of completed frames.

    Raises:
        DatasetError: a file of the dataset is missing or damaged.
        ConfigError: the folder cannot be written.
    """
    weights = weights_digest(network.backbone)
    folder = folder / folder_name(_VERSION, dict(arguments), list(size), dataset.depth_kind, weights)
    found = []
    for done, frame in enumerate(dataset.frames, 1):
        found.append(_frame(network, dataset.load(frame), dataset.depth_kind, size, folder))
        advance(done)
    return found


def _frame(network: RegionMil, sample: Sample, kind: DepthKind, size: tuple[int, int], folder: Path) -> FrameRegions:
    file = folder / f"{pixels_name(sample.key, sample.image, sample.depth, sample.depth_valid)}.npz"
    known = _read(file)
    if known is not None:
        return known
    proposals = propose_regions(sample.depth, sample.depth_valid, kind)
    features = region_features(network, sample, size, proposals).cpu().numpy().astype(np.float16)
    made = FrameRegions(features, vote_weights(proposals.overlaps), smaller(proposals.masks, _LONGEST))
    _write(file, made)
    return made


def _read(file: Path) -> FrameRegions | None:
    """Return the regions in a file; None if it is missing or damaged."""
    known = read_kept_arrays(file, ("shape", "masks", "features", "votes"))
    if known is None:
        return None
    lengths, packed, features, votes = known
    try:
        shape = tuple(int(length) for length in lengths)
        masks = np.unpackbits(packed, count=math.prod(shape)).reshape(shape).astype(bool)
        return FrameRegions(features, votes, masks)
    except (ValueError, TypeError, OverflowError):
        return None


def _write(file: Path, made: FrameRegions) -> None:
    bits = np.packbits(made.masks)
    keep_arrays(file, {"features": made.features, "votes": made.votes, "shape": made.masks.shape, "masks": bits})
