r"""The importance sampling loss (ISL), from "High-fidelity Pseudo-labels for Boosting Weakly-Supervised Segmentation".

Jonnarth, Zhang, Felsberg; WACV 2024, arXiv 2304.02621. A tag that is classified from the mean of a class activation
map (CAM) rewards maps that are a little active everywhere, or very active at one place. Here it is classified at cells
that are drawn from the map itself: for each class of each image S cells i with probability proportional to
:math:`\sigma(z_i)`, so that

.. math::
    L = \frac{1}{S |K|} \sum_{k \in K} \sum_{s=1}^{S}
        -\big[y_k \log\sigma(z_{k,i_s}) + (1-y_k) \log(1-\sigma(z_{k,i_s}))\big]

over the classes K of the batch whose tag is known: the active cells of an absent class are pushed down, and those of a
present class up, wherever they are. No gradient runs through the drawing.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn

from deal_core.losses.tags import tag_loss

_FLOOR = 1e-5  # so that a map of zeros can be drawn from, as published


def importance_sampling_loss(
    cams: Tensor,
    tags: Tensor,
    *,
    samples: int = 10,
    positions: Tensor | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """Return the importance sampling loss, a scalar >= 0 (arXiv 2304.02621).

    The publication gives it a share of 0.2 in the tag loss; the loss of the map's mean has the other 0.8.

    Args:
        cams: (B, K, h, w) class activation maps, raw logits, of the foreground classes.
        tags: (B, K), 1 present, 0 absent, nan unknown; an unknown tag gives neither loss nor gradient, and a batch
            without any known tag gives 0.
        samples: S, cells drawn (with replacement) a class and image.
        positions: (B, K, S) int64 indices into the h*w cells, row by row, in place of drawing them.
        generator: to draw with, on the device of `cams`; torch's default one when left out.

    Raises:
        ValueError: a shape does not fit the others, or `samples` is below 1.

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
        return tag_loss(drawn.transpose(1, 2).flatten(0, 1), tags.repeat_interleave(count, dim=0))


def draw_positions(cells: Tensor, samples: int, generator: Generator | None = None) -> Tensor:
    """Return (B, K, samples) int64 indices of cells, drawn with replacement in proportion to sigmoid(z) + 1e-5.

    Args:
        cells: (B, K, n) logits.
        samples: how many for each map.
        generator: on the device of `cells`.
    """
    shares = cells.detach().sigmoid() + _FLOOR
    return torch.multinomial(shares.flatten(0, 1), samples, replacement=True, generator=generator).unflatten(
        0, cells.shape[:2]
    )


class ImportanceSamplingLoss(nn.Module):
    """Importance sampling loss (Jonnarth, Zhang, Felsberg; arXiv 2304.02621).

    Holds the options of `importance_sampling_loss`; has no parameters and no state.

    >>> criterion = ImportanceSamplingLoss(samples=10)
    >>> criterion(torch.zeros(2, 3, 8, 8), torch.ones(2, 3))
    tensor(0.6931)
    """

    def __init__(self, samples: int = 10) -> None:
        super().__init__()
        _check_samples(samples)
        self.samples = samples

    def forward(self, cams: Tensor, tags: Tensor, generator: Generator | None = None) -> Tensor:
        """Return the scalar loss; arguments as of `importance_sampling_loss`."""
        return importance_sampling_loss(cams, tags, samples=self.samples, generator=generator)


def _check_shapes(cams: Tensor, tags: Tensor, samples: int, positions: Tensor | None) -> None:
    if cams.ndim != 4:
        raise ValueError(f"expected cams of shape (B, K, h, w), got {tuple(cams.shape)}")
    if tags.shape != cams.shape[:2]:
        raise ValueError(f"expected tags of shape {tuple(cams.shape[:2])}, got {tuple(tags.shape)}")
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
