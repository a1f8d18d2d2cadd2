"""The share of the activation outside of shown things, against a loop."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deal_core.losses.activation import activate
from deal_core.losses.seeds import seed_loss

UNKNOWN = 255


def slowly(cams: torch.Tensor, shown: torch.Tensor) -> float:
    """The definition, pair by pair and cell by cell; a cell is a block of whole pixels."""
    batch, classes, h, w = cams.shape
    high, wide = shown.shape[1] // h, shown.shape[2] // w
    maps, shares = activate(cams), []
    for image in range(batch):
        for k in range(classes):
            if not (shown[image] == k + 1).any():
                continue
            outside = total = 0.0
            for y in range(h):
                for x in range(w):
                    block = shown[image, y * high : (y + 1) * high, x * wide : (x + 1) * wide]
                    value = float(maps[image, k, y, x])
                    known = float((block != UNKNOWN).double().mean())
                    total += value * known
                    outside += value * (known - float((block == k + 1).double().mean()))
            shares.append(outside / total if total else 0.0)
    return sum(shares) / max(len(shares), 1)


@given(st.integers(0, 2**16), st.sampled_from([1, 2, 4]), st.booleans())
def test_the_loss_is_the_share_outside(seed: int, pixels: int, with_unknown: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    cams = torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64)
    values = [0, 1, 3, UNKNOWN] if with_unknown else [0, 1, 3]
    chosen = torch.randint(len(values), (2, 4 * pixels, 5 * pixels), generator=generator)
    shown = torch.tensor(values, dtype=torch.uint8)[chosen]
    found = float(seed_loss(cams, shown))
    assert found == pytest.approx(slowly(cams, shown), abs=1e-9) and 0 <= found <= 1
    assert float(seed_loss(7 * cams, shown)) == pytest.approx(found, abs=1e-9), "the scale does not matter"


def test_gradients_move_the_activation_onto_the_thing() -> None:
    cams = torch.full((1, 2, 2, 3), 1.0, requires_grad=True)
    shown = torch.zeros(1, 4, 6, dtype=torch.uint8)
    shown[:, :2, :2] = 2
    seed_loss(cams, shown).backward()
    assert cams.grad is not None and (cams.grad[0, 0] == 0).all(), "nothing was shown of the first class"
    on = torch.zeros(2, 3, dtype=torch.bool)
    on[0, 0] = True
    assert (cams.grad[0, 1][on] < 0).all() and (cams.grad[0, 1][~on] > 0).all()


@pytest.mark.parametrize("fill", [0, UNKNOWN])
def test_nothing_shown_costs_nothing(fill: int) -> None:
    cams = torch.randn(1, 2, 2, 3, requires_grad=True)
    loss = seed_loss(cams, torch.full((1, 4, 6), fill, dtype=torch.uint8))
    assert float(loss) == 0
    assert float(seed_loss(torch.zeros(1, 2, 2, 3), torch.ones(1, 4, 6, dtype=torch.uint8))) == 0, "an empty map"


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected cams \(B, K, h, w\) and shown"):
        seed_loss(torch.zeros(2, 3, 4, 5), torch.zeros(1, 4, 5, dtype=torch.uint8))
