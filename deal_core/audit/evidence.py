"""What a frozen backbone sees in a frame: in its regions, and in the background from which things are cut out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

from deal_core.array_files import keep_arrays, read_kept_arrays
from deal_core.dataset.dataset import Dataset
from deal_core.dataset.transforms import image_to_tensor, resize_sample
from deal_core.features.digest import folder_name, pixels_name, weights_digest
from deal_core.models.region_mil import RegionMil
from deal_core.regions.features import pool_regions
from deal_core.regions.proposals import Proposals, propose_regions, vote_weights
from deal_core.structures import BoolArray, DepthKind, Float32Array, Sample, UInt8Array

_VERSION = 1
_WINDOWS = (2, 4)
"""Windows on the shorter side of an image without depth; neighbours overlap by half."""
_LEAST_BACKGROUND = 0.1
"""Smallest share of the image that the background must have."""
_MARGIN = 0.03
"""Width of the margin round things that is cut out with them, as a share of the longer side."""
_FILL_AT = 96
_KEPT = ("regions", "votes", "background")


@dataclass(frozen=True, eq=False)
class FrameEvidence:
    """What a backbone sees in a frame.

    Args:
        regions: (N, D) float16 features of the regions.
        votes: (N,) float32 weight of each region, in (0, 1]; near-duplicates share one.
        background: (D,) float16 features of what is left when things are cut out; nan if that is too little.
    """

    regions: npt.NDArray[np.float16]
    votes: Float32Array
    background: npt.NDArray[np.float16]


def gather_evidence(
    network: RegionMil,
    dataset: Dataset,
    size: tuple[int, int],
    folder: Path | None,
    *,
    arguments: Mapping[str, Any],
    advance: Callable[[int], None] = lambda frames: None,
) -> list[FrameEvidence]:
    """Return the evidence of all frames, in order; what `folder` holds is not computed again.

    Args:
        network: Network whose backbone makes the features.
        dataset: Frames.
        size: Size (height, width) of the image for the network.
        folder: Folder in which the evidence is kept; None keeps nothing.
        arguments: Arguments of the network.
        advance: Function to call with the number of completed frames.

    Raises:
        DatasetError: a file of the dataset is missing or damaged.
        ConfigError: the folder cannot be written.
    """
    if folder is not None:
        weights = weights_digest(network.backbone)
        folder = folder / folder_name("audit", _VERSION, dict(arguments), list(size), dataset.depth_kind, weights)
    found = []
    for done, frame in enumerate(dataset.frames, 1):
        sample = dataset.load(frame)
        name = pixels_name(sample.key, sample.image, sample.depth, sample.depth_valid)
        file = folder / f"{name}.npz" if folder else None
        known = read_kept_arrays(file, _KEPT) if file else None
        evidence = FrameEvidence(*known) if known else _see(network, sample, dataset.depth_kind, size)
        if file and not known:
            keep_arrays(file, {key: getattr(evidence, key) for key in _KEPT})
        found.append(evidence)
        advance(done)
    return found


def cut_out(image: UInt8Array, things: BoolArray) -> UInt8Array:
    """Return the image (H, W, 3) with the pixels of the mask (H, W) painted over from what surrounds them."""
    longest = max(things.shape)
    height, width = (max(round(side * min(_FILL_AT / longest, 1)), 1) for side in things.shape)
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    hole = cv2.resize(things.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA) > 0
    painted = cv2.inpaint(small, hole.view(np.uint8), 3, cv2.INPAINT_TELEA)
    large = cv2.resize(painted, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    return np.where(things[..., None], large, image)


@torch.inference_mode()
def _see(network: RegionMil, sample: Sample, kind: DepthKind, size: tuple[int, int]) -> FrameEvidence:
    device = network.feature_mean.device
    resized = resize_sample(sample, size)
    proposals = propose_regions(resized.depth, resized.depth_valid, kind) if sample.depth_valid.any() else None
    masks = proposals.masks if proposals and len(proposals) else _windows(size)
    votes = vote_weights(proposals.overlaps) if proposals and len(proposals) else np.full(len(masks), 1, np.float32)
    maps = network.maps(image_to_tensor(resized.image)[None].to(device))
    regions = pool_regions(maps, masks).cpu().numpy().astype(np.float16)
    background = np.full(regions.shape[1], np.nan, np.float16)
    things = _things(proposals) if proposals else None
    if things is not None and (~things).mean() >= _LEAST_BACKGROUND:
        without = image_to_tensor(cut_out(resized.image, things))[None].to(device)
        background = pool_regions(network.maps(without), ~things[None])[0].cpu().numpy().astype(np.float16)
    return FrameEvidence(regions, votes, background)


def _things(proposals: Proposals) -> BoolArray:
    """Return the mask (H, W) of everything that may be a thing, with a margin."""
    regions = proposals.masks.any(0) if len(proposals) else np.zeros(proposals.depth.shape, bool)
    things = regions | ~proposals.planes.on_support() if proposals.planes.supports.any() else regions
    side = 2 * round(_MARGIN * max(things.shape)) + 1
    return cv2.dilate(things.view(np.uint8), np.ones((side, side), np.uint8)).astype(bool)


def _windows(size: tuple[int, int]) -> BoolArray:
    """Return overlapping windows (N, H, W) of two sizes, and the whole image."""
    height, width = size
    masks = [np.ones(size, bool)]
    for count in _WINDOWS:
        side = min(size) / count
        for top in np.linspace(0, height - side, max(round(2 * height / side) - 1, 1)):
            for left in np.linspace(0, width - side, max(round(2 * width / side) - 1, 1)):
                mask = np.zeros(size, bool)
                mask[round(top) : round(top + side), round(left) : round(left + side)] = True
                masks.append(mask)
    return np.stack(masks)
