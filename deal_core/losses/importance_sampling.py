r"""The importance sampling loss (ISL), from "High-fidelity Pseudo-labels for Boosting Weakly-Supervised Segmentation".

Jonnarth, Zhang, Felsberg; WACV 2024, arXiv 2304.02621. A tag that is classified from the mean of a class activation
map (CAM) rewards maps that are slightly active everywhere, or very active in one place. Here the tag is classified at
cells that are sampled from the map: for each class of each image S cells i with probability proportional to
:math:`\sigma(z_i)`, so that

.. math::
    L = \frac{1}{S |K|} \sum_{k \in K} \sum_{s=1}^{S}
        -\big[y_k \log\sigma(z_{k,i_s}) + (1-y_k) \log(1-\sigma(z_{k,i_s}))\big]

over the classes K of the batch whose tag is known: the loss lowers the active cells of an absent class and raises those
of a present class. No gradient flows through the sampling.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn

from deal_core.losses.tags import check_cams, nan_unless_finite, tag_loss

_FLOOR = 1e-5  # lets a map of zeros be sampled, as published


def importance_sampling_loss(
    cams: Tensor,
    tags: Tensor,
    *,
    samples: int = 10,
    positions: Tensor | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """Return the importance sampling loss, a scalar >= 0 (arXiv 2304.02621).

    The published tag loss is 0.2 of this loss and 0.8 of the loss of the map's mean. The loss is nan if a map with a
    known tag contains nan or infinity.

    Args:
        cams: (B, K, h, w) class activation maps, raw logits, of the foreground classes.
        tags: (B, K), 1 present, 0 absent, nan unknown; an unknown tag gives neither loss nor gradient, and a batch
            without any known tag gives 0.
        samples: S, number of cells to draw (with replacement) for each class and image.
        positions: (B, K, S) int64 indices into the h*w cells, row by row, used instead of drawing them.
        generator: random generator on the device of `cams`; torch's default if None.

    Raises:
        ValueError: the shapes do not fit each other, or `samples` is below 1.

    >>> cams, tags = torch.randn(2, 3, 8, 8), torch.tensor([[1.0, 0.0, float("nan")], [0.0, 1.0, 1.0]])
    >>> importance_sampling_loss(cams, tags, samples=4).shape
    torch.Size([])
    """
    _check_shapes(cams, tags, samples, positions)
    # Log-probabilities of low-precision logits are coarse: under autocast, too, the arithmetic stays in float32.
    with torch.autocast(device_type=cams.device.type, enabled=False):
        cells = cams.to(torch.promote_types(cams.dtype, torch.float32)).flatten(2)
        if positions is None:
            positions = draw_positions(cells, samples, generator)
        drawn = cells.gather(2, positions)
        count = positions.shape[2]
        loss = tag_loss(drawn.transpose(1, 2).flatten(0, 1), tags.repeat_interleave(count, dim=0))
        return nan_unless_finite(loss, cells.where(~torch.isnan(tags)[..., None], 0.0))


def draw_positions(cells: Tensor, samples: int, generator: Generator | None = None) -> Tensor:
    """Return (B, K, samples) int64 indices of cells, drawn with replacement in proportion to sigmoid(z) + 1e-5.

    Args:
        cells: (B, K, n) logits.
        samples: number of indices for each map.
        generator: random generator on the device of `cells`.
    """
    shares = cells.detach().sigmoid().nan_to_num(0.0) + _FLOOR  # nan cannot be drawn; the loss tells of it
    return torch.multinomial(shares.flatten(0, 1), samples, replacement=True, generator=generator).unflatten(
        0, cells.shape[:2]
    )


class ImportanceSamplingLoss(nn.Module):
    """Importance sampling loss (Jonnarth, Zhang, Felsberg; arXiv 2304.02621).

    Keeps the options of `importance_sampling_loss`; has no parameters and no state.

    >>> criterion = ImportanceSamplingLoss(samples=10)
    >>> criterion(torch.zeros(2, 3, 8, 8), torch.ones(2, 3))
    tensor(0.6931)
    """

    def __init__(self, samples: int = 10) -> None:
        super().__init__()
        _check_samples(samples)
        self.samples = samples

    def forward(self, cams: Tensor, tags: Tensor, generator: Generator | None = None) -> Tensor:
        """Return the scalar loss; arguments as in `importance_sampling_loss`."""
        return importance_sampling_loss(cams, tags, samples=self.samples, generator=generator)


def _check_shapes(cams: Tensor, tags: Tensor, samples: int, positions: Tensor | None) -> None:
    check_cams(cams, tags)
    _check_samples(samples)
    if positions is not None and (
        positions.ndim != 3 or positions.shape[:2] != cams.shape[:2] or positions.dtype != torch.int64
    ):
        batch, classes = cams.shape[:2]
        raise ValueError(
            f"expected positions as int64 ({batch}, {classes}, S), got {positions.dtype} {tuple(positions.shape)}"
        )


def _check_samples(samples: int) -> None:
    if samples < 1:
        raise ValueError(f"expected samples of at least 1, got {samples}")
