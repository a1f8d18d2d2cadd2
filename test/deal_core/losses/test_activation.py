"""Maps that stay alive where every logit is negative."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deal_core.losses.activation import activate, is_flat
from deal_core.losses.depth_edge import DepthEdgeAlignmentLoss


def slow_activate(cams: np.ndarray) -> np.ndarray:
    out = np.zeros_like(cams)
    for b, images in enumerate(cams):
        for k, cam in enumerate(images):
            mean = sum(float(v) for v in cam.ravel()) / cam.size
            floor = mean if mean < 0 else 0.0
            for place in np.ndindex(cam.shape):
                out[(b, k, *place)] = max(cam[place] - floor, 0.0)
    return out


@given(st.integers(0, 10_000), st.floats(-5, 5))
@settings(max_examples=40, deadline=None)
def test_it_equals_a_loop_over_cells(seed: int, shift: float) -> None:
    cams = np.random.default_rng(seed).normal(shift, 2, (2, 3, 4, 5))
    np.testing.assert_allclose(activate(torch.from_numpy(cams)).numpy(), slow_activate(cams), atol=1e-9)


@given(st.integers(0, 10_000), st.floats(0.01, 100))
@settings(max_examples=40, deadline=None)
def test_it_is_not_negative_never_empty_where_the_map_varies_and_follows_scale(seed: int, scale: float) -> None:
    cams = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 3
    maps = activate(cams)
    assert (maps >= 0).all() and (maps.amax(dim=(-2, -1)) > 0).all()
    torch.testing.assert_close(activate(scale * cams), scale * maps, rtol=1e-9, atol=1e-12)
    recognised = cams - cams.mean(dim=(-2, -1), keepdim=True) + 0.1
    assert torch.equal(activate(recognised), recognised.relu())


def test_relu_is_what_it_says_and_another_kind_is_refused() -> None:
    cams = torch.randn(1, 2, 3, 3)
    assert torch.equal(activate(cams, "relu"), cams.relu())
    with pytest.raises(ValueError, match="activation to be one of above_mean, relu, got 'softplus'"):
        activate(cams, "softplus")  # type: ignore[arg-type]


def test_flat_maps_are_found_at_any_scale() -> None:
    ramp = torch.arange(12.0).view(1, 1, 3, 4)
    maps = torch.cat([ramp, 1e-9 * ramp, torch.zeros_like(ramp), torch.full_like(ramp, 1e4)], dim=1)
    assert is_flat(maps).tolist() == [[False, False, True, True]]


@pytest.mark.parametrize("value", ["relu_max", "above_mean_max"])
def test_a_map_of_negative_logits_has_a_gradient_only_above_its_mean(value: str) -> None:
    depth = torch.ones(1, 1, 32, 32)
    depth[..., 8:20, 10:22] = 0.7
    cams = (torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(0)) - 8).requires_grad_()
    terms = DepthEdgeAlignmentLoss(size=(16, 16), cam_value=value).terms(cams, depth, torch.ones(1, 1))
    (gradient,) = torch.autograd.grad(terms.loss, cams)
    if value == "relu_max":
        assert terms.loss == terms.flat and not gradient.any(), "the published loss is blind here"
    else:
        assert abs(terms.loss - terms.flat) > 0.05 and gradient.abs().sum() > 0
