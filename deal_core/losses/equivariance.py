"""The losses of SEAM (Wang et al., CVPR 2020, arXiv 2004.04581): two views of an image should have the same CAMs.

All take maps of both views at one size, and count only present tags: the channel of an absent or unknown tag is 0 on
both sides. The argument `classes` is the number of channels to average over.
"""

from __future__ import annotations

import torch
from torch import Tensor

from deal_core.losses.tags import nan_unless_finite

EPSILON = 1e-5


def max_norm(maps: Tensor) -> Tensor:
    """Return maps (B, C, h, w) scaled to [0, 1) each: ReLU, then minus the minimum, over the range."""
    positive = maps.relu()
    low = positive.amin(dim=(-2, -1), keepdim=True)
    high = positive.amax(dim=(-2, -1), keepdim=True)
    return (positive - low - EPSILON).relu() / (high - low + EPSILON)


def equivariant_regularization_loss(
    first: Tensor, second: Tensor, tags: Tensor, *, classes: int | None = None
) -> Tensor:
    """Return the mean absolute difference between the CAMs of two views, a scalar in [0, 1] (L_ER).

    Args:
        first: (B, K, h, w) in [0, 1], normalised CAMs of the first view, brought to the frame of the second.
        second: (B, K, h, w) in [0, 1].
        tags: (B, K), 1 present, 0 absent, nan unknown; only present tags count.
        classes: number of classes to average over for each image; the present classes if None.

    Raises:
        ValueError: shapes differ.
    """
    _check_shapes(tags, first, second)
    present = tags == 1
    difference = (first - second).abs().mean(dim=(-2, -1)).where(present, 0.0)
    count = present.sum().clamp_min(1) if classes is None else len(tags) * classes
    return difference.sum() / count


def equivariant_cross_regularization_loss(
    first: Tensor,
    second: Tensor,
    first_refined: Tensor,
    second_refined: Tensor,
    tags: Tensor,
    *,
    hardest: float = 0.2,
    classes: int | None = None,
) -> Tensor:
    """Return how far the refined map of each view is from the CAM of the other, a scalar in [0, 2] (L_ECR).

    T(|onehot(c_2) - r_1|) + T(|onehot(c_1) - r_2|): onehot adds the background, 1 - max over classes, and keeps
    only the largest class at each pixel; no gradient flows through it. T is the mean of the largest entries of each
    image (online hard mining).

    Args:
        first: (B, K, h, w) in [0, 1], normalised CAMs of the first view, brought to the frame of the second.
        second: (B, K, h, w) in [0, 1].
        first_refined: (B, K + 1, h, w) in [0, 1], normalised refined maps, the background first.
        second_refined: (B, K + 1, h, w) in [0, 1].
        tags: (B, K), 1 present, 0 absent, nan unknown.
        hardest: share of the entries, background and counted classes, that T averages.
        classes: number of classes to count for each image; the present classes if None.

    Raises:
        ValueError: shapes differ, or `hardest` is not in (0, 1].
    """
    _check_shapes(tags, first, second)
    _check_shapes(torch.cat([tags[:, :1], tags], dim=1), first_refined, second_refined)
    if first.shape[-2:] != first_refined.shape[-2:]:
        raise ValueError(f"expected maps of one size, got {tuple(first.shape)}, {tuple(first_refined.shape)}")
    if not 0 < hardest <= 1:
        raise ValueError(f"expected hardest in (0, 1], got {hardest}")
    present = (tags == 1)[..., None, None]
    with_background = torch.cat([torch.ones_like(present[:, :1]), present], dim=1)

    def mined(target: Tensor, refined: Tensor) -> Tensor:
        gap = (_one_hot(target.detach().where(present, 0.0)) - refined.where(with_background, 0.0)).abs()
        return _mean_of_largest(gap, present.sum(dim=(1, 2, 3)) if classes is None else classes, hardest)

    return mined(second, first_refined) + mined(first, second_refined)


def refined_minimum_loss(refined: Tensor, tags: Tensor, *, share: float = 0.25) -> Tensor:
    """Return the mean of the lowest pixels of the strongest present class, a scalar >= 0 (L_rvmin).

    It pulls the refined map to 0 outside the classes, and so moves the best background threshold.

    Args:
        refined: (B, K, h, w) refined CAMs; negative values count as 0.
        tags: (B, K), 1 present, 0 absent, nan unknown; an image without a present tag gives 0.
        share: share of the pixels to average.

    Raises:
        ValueError: shapes differ.
    """
    _check_shapes(tags, refined)
    strongest = refined.where((tags == 1)[..., None, None], 0.0).amax(dim=1).flatten(1)
    count = max(int(strongest.shape[1] * share), 1)
    lowest = strongest.topk(count, dim=1, largest=False, sorted=False).values
    return nan_unless_finite(lowest.relu().mean(), strongest)


def _one_hot(cams: Tensor) -> Tensor:
    """Return (B, K + 1, h, w): 1 - max over the classes, then the largest class at each pixel; the others are 0."""
    largest = cams.amax(dim=1, keepdim=True)
    return torch.cat([1.0 - largest, cams.where(cams == largest, 0.0)], dim=1)


def _mean_of_largest(values: Tensor, classes: Tensor | int, share: float) -> Tensor:
    """Return the mean over images of the mean of their largest entries, among `classes` classes and the background.

    Entries of classes that `values` does not contain count as 0.
    """
    pixels = values.shape[-2] * values.shape[-1]
    values = values.flatten(1)
    if isinstance(classes, int):
        count = max(int((classes + 1) * pixels * share), 1)
        largest = values.topk(min(count, values.shape[1]), dim=1, sorted=False).values
        return largest.sum() / (count * len(values))
    counts = ((classes.double() + 1) * pixels * share).long().clamp_min(1)
    most = max(int(values.shape[1] * share), 1)  # for an image in which every class is present
    ranked = values.topk(most, dim=1).values
    chosen = torch.arange(most, device=values.device) < counts[:, None]
    return (ranked.where(chosen, 0.0).sum(dim=1) / counts).mean()


def _check_shapes(tags: Tensor, *maps: Tensor) -> None:
    if tags.ndim != 2 or any(m.ndim != 4 or m.shape[:2] != tags.shape or m.shape != maps[0].shape for m in maps):
        raise ValueError(
            f"expected maps of one shape (B, K, h, w) for tags (B, K), got {[tuple(m.shape) for m in maps]}, "
            f"{tuple(tags.shape)}"
        )
