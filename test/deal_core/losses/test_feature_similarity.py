"""The feature similarity loss against its definition, written as a double loop over cells."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deal_core.losses.feature_similarity import FeatureSimilarityLoss, class_shares, feature_similarity_loss

NAN = float("nan")


def slow_shares(cams: np.ndarray, tags: np.ndarray) -> np.ndarray:
    """(1 + K, h, w) of one image."""
    foreground = np.zeros_like(cams)
    for k, tag in enumerate(tags):
        if tag == 1:
            active = np.maximum(cams[k], 0)
            low, high = active.min(), active.max()
            foreground[k] = np.maximum(active - low - 1e-5, 0) / (high - low + 1e-5)
    return np.concatenate([1 - foreground.max(0, keepdims=True), foreground])


def slow_loss(cams: np.ndarray, image: np.ndarray, tags: np.ndarray, sigma: float, mu: float = 2.5) -> float:
    """The definition, pair by pair, in float64; the image already of the size of the maps."""
    batch, _, height, width = cams.shape
    total = 0.0
    for b in range(batch):
        shares = slow_shares(cams[b], tags[b])
        for i in np.ndindex(height, width):
            for j in np.ndindex(height, width):
                colour = float(np.abs(image[b, :, i[0], i[1]] - image[b, :, j[0], j[1]]).mean())
                if colour in (0.0, 1.0):
                    sign = 2 * colour - 1
                else:
                    sign = math.tanh(mu + math.log(colour / (1 - colour)))
                square = (i[0] - j[0]) ** 2 + (i[1] - j[1]) ** 2
                place = math.exp(-square / (2 * sigma**2)) / (2 * math.pi * sigma**2)
                total -= place * sign * 0.5 * ((shares[:, i[0], i[1]] - shares[:, j[0], j[1]]) ** 2).sum()
    return total / (batch * height * width)


def random_case(seed: int, batch: int = 2, classes: int = 3, height: int = 5, width: int = 6):
    rng = np.random.default_rng(seed)
    cams = rng.normal(size=(batch, classes, height, width))
    image = rng.uniform(size=(batch, 3, height, width))
    image[:, :, : height // 2] = image[:, :, :1, :1] + 0.05 * (image[:, :, : height // 2] - 0.5)  # alike in part
    tags = rng.choice([0.0, 1.0, NAN], size=(batch, classes))
    return cams, image.clip(0, 1), tags


@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 6), st.sampled_from([0.4, 1.0, 2.5, 20.0]))
@settings(max_examples=25)
def test_equals_the_definition(seed: int, height: int, width: int, sigma: float) -> None:
    case = random_case(seed, height=height, width=width)
    expected = slow_loss(*case, sigma, mu=2.0)
    double = feature_similarity_loss(*(torch.from_numpy(a) for a in case), sigma=sigma, mu=2.0)
    assert double.item() == pytest.approx(expected, abs=1e-10)
    single = feature_similarity_loss(*(torch.from_numpy(a).float() for a in case), sigma=sigma, mu=2.0)
    assert single.item() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_rows_that_are_too_far_apart_to_matter_may_be_left_out() -> None:
    """A tall map of which most pairs of rows are never compared; the colours make the far pairs count fully."""
    generator = torch.Generator().manual_seed(2)
    cams = torch.rand(1, 2, 40, 3, generator=generator, dtype=torch.float64)
    image = torch.rand(1, 3, 40, 3, generator=generator, dtype=torch.float64)
    cams[:, 0] = torch.linspace(0, 1, 40, dtype=torch.float64)[:, None]
    tags = torch.ones(1, 2, dtype=torch.float64)
    expected = slow_loss(cams.numpy(), image.numpy(), tags.numpy(), 1.5)
    assert feature_similarity_loss(cams, image, tags, sigma=1.5).item() == pytest.approx(expected, rel=1e-6)


def test_the_image_is_resampled_to_the_map_with_its_corners() -> None:
    cams, _, _ = random_case(3, batch=1)
    tags = np.ones((1, 3))
    rng = np.random.default_rng(4)
    image = rng.uniform(size=(1, 3, 17, 23))
    small = np.zeros((1, 3, 5, 6))
    for y, x in np.ndindex(5, 6):
        row, column = y * 16 / 4, x * 22 / 5
        top, left = int(row), min(int(column), 21)
        down, right = row - top, column - left
        above = (1 - right) * image[0, :, top, left] + right * image[0, :, top, left + 1]
        below = image[0, :, min(top + 1, 16), left : left + 2] @ np.array([1 - right, right])
        small[0, :, y, x] = (1 - down) * above + down * below
    measured = feature_similarity_loss(*(torch.from_numpy(a) for a in (cams, image, tags)), sigma=2.0)
    assert measured.item() == pytest.approx(slow_loss(cams, small, tags, 2.0), abs=1e-10)


def test_gradcheck() -> None:
    cams, image, _ = (torch.from_numpy(a) for a in random_case(5))
    tags = torch.tensor([[1.0, 1.0, NAN], [0.0, 1.0, 0.0]])
    assert torch.autograd.gradcheck(
        lambda c: 3 * feature_similarity_loss(c, image, tags, sigma=1.5), cams.requires_grad_()
    )


@given(st.integers(0, 10_000))
@settings(max_examples=20)
def test_order_of_classes_and_mirroring_change_nothing(seed: int) -> None:
    cams, image, tags = (torch.from_numpy(a) for a in random_case(seed))
    loss = feature_similarity_loss(cams, image, tags, sigma=2.0).item()
    order = torch.randperm(3, generator=torch.Generator().manual_seed(seed))
    assert feature_similarity_loss(cams[:, order], image, tags[:, order], sigma=2.0).item() == pytest.approx(loss)
    for axis in (-1, -2):
        mirrored = feature_similarity_loss(cams.flip(axis), image.flip(axis), tags, sigma=2.0)
        assert mirrored.item() == pytest.approx(loss)
    turned = feature_similarity_loss(cams.transpose(-1, -2), image.transpose(-1, -2), tags, sigma=2.0)
    assert turned.item() == pytest.approx(loss)


def test_in_a_one_colour_image_every_difference_costs() -> None:
    cams, _, _ = (torch.from_numpy(a) for a in random_case(6))
    grey, tags = torch.full((2, 3, 20, 20), 0.4, dtype=torch.float64), torch.ones(2, 3)
    assert feature_similarity_loss(cams, grey, tags, sigma=2.0) > 0
    flat = torch.full_like(cams, 0.7)
    assert feature_similarity_loss(flat, grey, tags, sigma=2.0).item() == pytest.approx(0, abs=1e-12)


def test_two_colours_ask_for_two_classes() -> None:
    image = torch.zeros(1, 3, 8, 8)
    image[..., 4:] = 1.0
    right = torch.zeros(1, 1, 8, 8)
    right[..., 4:] = 1.0
    across = right.transpose(-1, -2)
    tags = torch.ones(1, 1)
    losses = [
        feature_similarity_loss(c, image, tags, sigma=2.0).item() for c in (right, torch.ones(1, 1, 8, 8), across)
    ]
    assert losses[0] < -0.1 and abs(losses[1]) < 1e-6 and losses[2] > 0.05


def test_absent_and_unknown_classes_change_nothing() -> None:
    cams, image, _ = (torch.from_numpy(a) for a in random_case(7))
    tags = torch.tensor([[1.0, 0.0, NAN], [0.0, 1.0, NAN]])
    other = cams.clone().requires_grad_()
    with torch.no_grad():
        other[0, 1:], other[1, 0], other[1, 2] = 99.0, 5.0, torch.rand(5, 6).double()
    loss = feature_similarity_loss(other, image, tags, sigma=2.0)
    assert loss == feature_similarity_loss(cams, image, tags, sigma=2.0)
    loss.backward()
    assert other.grad is not None and not other.grad[tags != 1].any() and other.grad[tags == 1].any()


@pytest.mark.parametrize("what", ["no present tag", "maps without activation"])
def test_degenerate_input_gives_no_loss_and_a_finite_gradient(what: str) -> None:
    cams, tags = torch.randn(2, 3, 6, 6), torch.ones(2, 3)
    if what == "no present tag":
        tags = torch.tensor([[0.0, NAN, 0.0]] * 2)
    else:
        cams = -cams.abs()
    cams.requires_grad_()
    loss = feature_similarity_loss(cams, torch.rand(2, 3, 24, 24), tags, sigma=2.0)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6) and cams.grad is not None and not cams.grad.any()


def test_shares_lie_in_zero_to_one_with_the_background_first() -> None:
    cams = torch.tensor([[[[0.0, 2.0], [-3.0, 4.0]], [[1.0, 1.0], [1.0, 3.0]], [[9.0, 9.0], [0.0, 0.0]]]])
    shares = class_shares(cams, torch.tensor([[1.0, 1.0, NAN]]))
    expected = torch.tensor([[[1.0, 0.5], [1.0, 0.0]], [[0.0, 0.5], [0.0, 1.0]], [[0.0, 0.0], [0.0, 1.0]]])
    assert torch.allclose(shares[0, :3], expected, atol=1e-4) and not shares[0, 3].any()


def test_sigma_and_mu_matter_and_the_module_is_the_function() -> None:
    cams, image, _ = (torch.from_numpy(a) for a in random_case(9))
    tags = torch.ones(2, 3)
    default = FeatureSimilarityLoss(sigma=2.0)(cams, image, tags)
    assert default == feature_similarity_loss(cams, image, tags, sigma=2.0, mu=2.5)
    assert FeatureSimilarityLoss(sigma=2.0, mu=1.0)(cams, image, tags) not in (
        default,
        FeatureSimilarityLoss(sigma=3.0, mu=1.0)(cams, image, tags),
    )


def test_bfloat16_autocast_matches_float32() -> None:
    cams, image, tags = (torch.from_numpy(a).float() for a in random_case(11))
    rounded = cams.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = feature_similarity_loss(rounded, image, tags, sigma=2.0)
    assert low.dtype == torch.float32 and low == feature_similarity_loss(rounded.float(), image, tags, sigma=2.0)


@pytest.mark.parametrize(
    ("cams", "image", "tags", "message"),
    [
        ((3, 8, 8), (1, 3, 16, 16), (1, 3), r"expected cams of shape \(B, K, h, w\), got \(3, 8, 8\)"),
        ((2, 3, 8, 8), (2, 1, 16, 16), (2, 3), r"expected image of shape \(2, 3, H, W\), got \(2, 1, 16, 16\)"),
        ((2, 3, 8, 8), (1, 3, 16, 16), (2, 3), r"expected image of shape \(2, 3, H, W\), got \(1, 3, 16, 16\)"),
        ((2, 3, 8, 8), (2, 3, 16, 16), (2, 4), r"expected tags of shape \(2, 3\), got \(2, 4\)"),
    ],
)
def test_wrong_shapes_are_named(cams, image, tags, message) -> None:
    with pytest.raises(ValueError, match=message):
        feature_similarity_loss(torch.zeros(cams), torch.zeros(image), torch.zeros(tags), sigma=1.0)


@pytest.mark.parametrize("sigma", [0.0, -1.0, NAN])
def test_sigma_must_be_positive(sigma: float) -> None:
    with pytest.raises(ValueError, match="expected sigma above 0, in cells"):
        feature_similarity_loss(torch.zeros(1, 1, 4, 4), torch.zeros(1, 3, 4, 4), torch.ones(1, 1), sigma=sigma)
    with pytest.raises(ValueError, match="expected sigma above 0, in cells"):
        FeatureSimilarityLoss(sigma)
