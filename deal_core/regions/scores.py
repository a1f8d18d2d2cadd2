"""Class scores of a frame from its regions: a region model in the place of a CAM network."""

from __future__ import annotations

import numpy as np
import torch

from deal_core.models.region_mil import RegionMil
from deal_core.regions.features import region_features
from deal_core.regions.head import log_absence
from deal_core.regions.proposals import propose_regions, vote_weights
from deal_core.structures import BoolArray, DepthKind, Float32Array, Sample

SCORE_THRESHOLD = 0.5
"""A region with a larger probability of a class is painted with it."""
_KEPT = 0.51
"""Score of the best region of a present class that no region reaches `SCORE_THRESHOLD` for."""


def region_scores(
    network: RegionMil, sample: Sample, size: tuple[int, int], kind: DepthKind, tags: Float32Array | None
) -> Float32Array:
    """Return class scores (K, H, W) in [0, 1] at the size of the image; all 0 without depth.

    Args:
        network: Trained network.
        sample: The frame.
        size: Size (height, width) of the image for the network.
        kind: Kind of the depth.
        tags: (K,) with 1 for present classes; default: the classes that a region has, by noisy-or over the regions.
    """
    proposals = propose_regions(sample.depth, sample.depth_valid, kind)
    features = region_features(network, sample, size, proposals)
    with torch.inference_mode():
        probabilities = network(features)[:, 1:].cpu()
    if tags is None:
        votes = torch.from_numpy(vote_weights(proposals.overlaps))
        absence = log_absence(probabilities, votes, torch.zeros(len(votes), dtype=torch.int64), 1)[0]
        present = (absence.exp() <= 0.5).numpy()
    else:
        present = tags == 1
    return paint_scores(proposals.masks, probabilities.numpy(), present)


def paint_scores(masks: BoolArray, probabilities: Float32Array, present: BoolArray) -> Float32Array:
    """Return (K, H, W): the score of a class at a pixel is the probability of the region that covers it.

    Where regions overlap, the largest probability counts. A region has a score for its most probable present class
    alone. A present class without a region above one half gets its best region among those that no other class has, or
    else among all regions, with a score just above one half.

    Args:
        masks: (N, H, W) bool.
        probabilities: (N, K) probabilities of the classes.
        present: (K,) bool mask of present classes.
    """
    scores = np.zeros((len(present), *masks.shape[1:]), np.float32)
    if not len(masks) or not present.any():
        return scores
    allowed = np.where(present, probabilities, 0.0).astype(np.float32)
    for region, strengths in zip(masks, named_regions(allowed, present), strict=True):
        for index in np.flatnonzero(strengths):
            scores[index][region] = np.maximum(scores[index][region], strengths[index])
    return scores


def named_regions(probabilities: Float32Array, present: BoolArray) -> Float32Array:
    """Return (N, K) with the score of each region for its class, and 0 elsewhere, as in `paint_scores`."""
    strongest = probabilities.argmax(1)
    rows = np.arange(len(probabilities))
    named = np.zeros_like(probabilities)
    named[rows, strongest] = probabilities[rows, strongest]
    claimed = named.max(1) > SCORE_THRESHOLD
    for index in np.flatnonzero(present & ~(named > SCORE_THRESHOLD).any(0)):
        free = np.where(claimed, -1.0, probabilities[:, index])
        best = int(free.argmax()) if not claimed.all() else int(probabilities[:, index].argmax())
        named[best, index] = _KEPT
        claimed[best] = True
    return named
