"""The tri-state tag loss."""

import math

import pytest
import torch
import torch.nn.functional as F

from deal_core.losses.tags import tag_loss

NAN = float("nan")


def test_equals_multilabel_soft_margin_where_all_tags_are_known() -> None:
    logits, tags = torch.randn(4, 5), torch.randint(0, 2, (4, 5)).float()
    assert tag_loss(logits, tags).item() == pytest.approx(F.multilabel_soft_margin_loss(logits, tags).item(), abs=1e-6)


def test_unknown_tags_give_neither_loss_nor_gradient() -> None:
    logits = torch.tensor([[1.0, -2.0, 50.0]], requires_grad=True)
    loss = tag_loss(logits, torch.tensor([[1.0, 0.0, NAN]]))
    loss.backward()
    expected = (math.log1p(math.exp(-1.0)) + math.log1p(math.exp(-2.0))) / 2
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    assert logits.grad is not None and logits.grad[0, 2] == 0 and torch.isfinite(logits.grad).all()


def test_no_known_tag_is_zero_and_other_shapes_are_refused() -> None:
    assert tag_loss(torch.randn(2, 3), torch.full((2, 3), NAN)) == 0
    with pytest.raises(ValueError, match=r"one shape \(B, K\)"):
        tag_loss(torch.zeros(2, 3), torch.zeros(2, 4))
