"""Class scores against slow formulations, and the properties that a normalised map must have."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import functional as TF

from deal_core.errors import ConfigError
from deal_core.masks.class_scores import ScoreNetwork, multi_scale_scores, normalise
from deal_core.models.cam_net import CamNet
from deal_core.models.output import CamOutput
from deal_core.models.seam import Seam

SIZE = (30, 44)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(2)
    net = CamNet(4, backbone="test_resnet", width=16).eval()
    with torch.no_grad():
        net.classifier.weight *= 20
        net.classifier.bias += torch.tensor([2.0, -9.0, 0.5, 1.0])
    return net


@pytest.fixture(scope="module")
def images() -> Tensor:
    coarse = torch.rand(3, 3, 12, 16, generator=torch.Generator().manual_seed(0))
    return (F.interpolate(coarse, (48, 64), mode="bilinear") * 255).round() / 255


def bilinear(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear interpolation with pixel centres at a half, one pixel at a time."""
    height, width = values.shape
    result = np.zeros(size)
    for i in range(size[0]):
        for j in range(size[1]):
            y = min(max((i + 0.5) * height / size[0] - 0.5, 0), height - 1)
            x = min(max((j + 0.5) * width / size[1] - 0.5, 0), width - 1)
            top, left = int(y), int(x)
            bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
            a, b = y - top, x - left
            upper = (1 - b) * values[top, left] + b * values[top, right]
            lower = (1 - b) * values[bottom, left] + b * values[bottom, right]
            result[i, j] = (1 - a) * upper + a * lower
    return result


def resized_by_pil(image: Tensor, size: list[int]) -> Tensor:
    """An image (3, H, W) at another size, in 8 bit."""
    return TF.to_tensor(TF.to_pil_image(image).resize(size[::-1], Image.Resampling.BICUBIC))


def slow_scores(
    network: nn.Module, image: Tensor, tags: list[float] | None, scales: tuple[float, ...], flip: bool
) -> np.ndarray:
    """One image, one class, one pass and one pixel at a time."""
    passes = []
    for scale in scales:
        size = [round(image.shape[1] * scale), round(image.shape[2] * scale)]
        scaled = resized_by_pil(image, size) if scale != 1 else image
        passes += [(scaled, False)] + ([(torch.from_numpy(scaled.numpy()[:, :, ::-1].copy()), True)] if flip else [])
    total = np.zeros((4, *SIZE))
    logits = np.zeros(4)
    for picture, mirrored in passes:
        with torch.no_grad():
            output = network(picture[None])
        logits += output.tag_logits["cam"][0].numpy() / len(passes)
        for k in range(4):
            values = bilinear(output.activation[0, k].numpy(), SIZE)
            total[k] += values[:, ::-1] if mirrored else values
    for k in range(4):
        present = tags[k] == 1 if tags is not None else 1 / (1 + math.exp(-logits[k])) >= 0.5
        total[k] = total[k] / total[k].max() if present and total[k].max() > 0 else 0
    return total


NAN = float("nan")


@pytest.mark.parametrize("tags", [None, [[1, 1, 0, NAN], [0, 0, 0, 0], [1, 1, 1, 1]]], ids=["predicted", "given"])
@pytest.mark.parametrize(
    ("scales", "flip"), [((1.0,), False), ((1.0,), True), ((0.5, 1.0, 1.5), True), ((0.8,), False)]
)
def test_scores_equal_the_slow_formulation(
    network: nn.Module, images: Tensor, tags: list[list[float]] | None, scales: tuple[float, ...], flip: bool
) -> None:
    given_tags = None if tags is None else torch.tensor(tags, dtype=torch.float32)
    with torch.inference_mode():
        found = multi_scale_scores(network, images, tags=given_tags, scales=scales, flip=flip, size=SIZE)
    assert found.shape == (3, 4, *SIZE) and found.dtype == torch.float32
    for i in range(3):
        expected = slow_scores(network, images[i], None if tags is None else tags[i], scales, flip)
        # PyTorch and PIL round some pixels to neighbouring levels, and this network is steep.
        np.testing.assert_allclose(found[i].numpy(), expected, atol=1e-4 if scales == (1.0,) else 1e-2)
    assert found.any(), "the comparison must have something to compare"


def slow_bilinear_of_corners(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear interpolation with the outermost cells on the outermost pixels."""
    height, width = values.shape
    rows = np.arange(size[0]) * (height - 1) / (size[0] - 1)
    columns = np.arange(size[1]) * (width - 1) / (size[1] - 1)
    lines = np.stack([np.interp(columns, np.arange(width), line) for line in values])
    return np.stack([np.interp(rows, np.arange(height), line) for line in lines.T]).T


def test_maps_of_the_published_seam_are_upsampled_at_each_scale_before_they_are_added() -> None:
    """As its code: each map to the size of its image by its corners, then to the size of the first image."""

    class Cells(nn.Module):
        def forward(self, image: Tensor) -> CamOutput:
            cams = F.avg_pool2d(image[:, :2], 8)
            return CamOutput({"tag": torch.ones(len(image), 2)}, "tag", cams, 8, {}, corners=True)

    net, image = Cells(), torch.randint(0, 256, (1, 3, 64, 80), generator=torch.Generator().manual_seed(4)) / 255
    total = np.zeros((2, 64, 80))
    with torch.inference_mode():
        for scale in (0.5, 1.0, 1.5):
            size = [round(64 * scale), round(80 * scale)]
            scaled = resized_by_pil(image[0], size)[None] if scale != 1 else image
            for mirrored in (False, True):
                output = net(scaled.flip(-1) if mirrored else scaled)
                for k in range(2):
                    own = slow_bilinear_of_corners(output.activation[0, k].double().numpy(), (size[0], size[1]))
                    placed = bilinear(own, (64, 80))
                    total[k] += placed[:, ::-1] if mirrored else placed
        found = multi_scale_scores(net, image, tags=torch.ones(1, 2), scales=(0.5, 1.0, 1.5))[0].numpy()
        once = multi_scale_scores(net, image, tags=torch.ones(1, 2), flip=False)[0]
        scores, _ = ScoreNetwork(net)(image)
    assert found.std() > 0.01
    np.testing.assert_allclose(found, total / total.max(axis=(1, 2), keepdims=True), atol=1e-3)
    at_cells = F.interpolate(once[None], scores.shape[-2:], mode="bilinear")[0]
    for k in range(2):  # as a robot sees it: the same places at the stride of the network
        np.testing.assert_allclose(scores[0, k].numpy(), (at_cells[k] / at_cells[k].max()).numpy(), atol=1e-4)
    for preset, corners in (("reference", True), ("fixed", False)):
        seam = Seam(2, backbone="test_resnet", preset=preset).eval()
        assert seam(image).corners == corners


def test_maps_stretched_from_minimum_to_maximum(network: nn.Module, images: Tensor) -> None:
    with torch.inference_mode():
        raw = F.interpolate(network(images).activation, SIZE, mode="bilinear", align_corners=False)
        tags = torch.tensor([[1.0, 0, NAN, 1]] * 3)
        found = multi_scale_scores(network, images, tags=tags, flip=False, size=SIZE, normalisation="min_max")
    for b in range(3):
        for k in range(4):
            values = raw[b, k].double()
            span = values.max() - values.min()
            expected = (values - values.min()) / span if k in (0, 3) and span > 0 else torch.zeros(SIZE)
            np.testing.assert_allclose(found[b, k].numpy(), expected.numpy(), atol=1e-5)
    flat = torch.full((1, 1, 2, 2), 3.0)
    assert not normalise(flat, torch.ones(1, 1, dtype=torch.bool), "min_max").any()
    assert normalise(flat, torch.ones(1, 1, dtype=torch.bool)).all()
    with pytest.raises(ConfigError, match="max, min_max, found 'minmax'"):
        normalise(flat, torch.ones(1, 1, dtype=torch.bool), "minmax")  # type: ignore[arg-type]


def test_no_class_in_any_image(network: nn.Module, images: Tensor) -> None:
    with torch.inference_mode():
        found = multi_scale_scores(network, images, tags=torch.zeros(3, 4), size=SIZE)
    assert found.shape == (3, 4, *SIZE) and not found.any()


def test_one_pass_equals_the_score_network_resized(network: nn.Module, images: Tensor) -> None:
    with torch.inference_mode():
        scores, tags = ScoreNetwork(network)(images)
        assert scores.shape == (3, 4, 6, 8)
        assert tags.min() > 0 and tags.max() < 1
        full = F.interpolate(scores, SIZE, mode="bilinear", align_corners=False)
        # Interpolating commutes with dividing, so only the maximum has to be found anew.
        full = full / full.amax(dim=(-2, -1), keepdim=True).clamp_min(1e-9)
        assert torch.allclose(multi_scale_scores(network, images, flip=False, size=SIZE), full, atol=1e-6)
    assert multi_scale_scores(network, images).shape == (3, 4, 48, 64)


def test_mirrored_images_give_mirrored_scores(network: nn.Module, images: Tensor) -> None:
    with torch.inference_mode():
        for scales in ((1.0,), (0.5, 1.0)):
            straight = multi_scale_scores(network, images, scales=scales, flip=True)
            mirrored = multi_scale_scores(network, images.flip(-1), scales=scales, flip=True)
            assert torch.allclose(mirrored.flip(-1), straight, atol=1e-4)
        alone = multi_scale_scores(network, images, flip=False)
        assert not torch.allclose(multi_scale_scores(network, images.flip(-1), flip=False).flip(-1), alone, atol=1e-3)


def test_what_one_image_scores_does_not_depend_on_its_batch(network: nn.Module, images: Tensor) -> None:
    with torch.inference_mode():
        together = multi_scale_scores(network, images, scales=(0.5, 1.0))
        for i in range(3):
            assert torch.allclose(
                multi_scale_scores(network, images[i : i + 1], scales=(0.5, 1.0))[0], together[i], atol=1e-4
            )


@given(
    activation=npst.arrays(
        np.float32, (2, 3, 4, 5), elements=st.one_of(st.just(0.0), st.floats(2**-100, 2**20, width=32))
    ),
    present=npst.arrays(np.bool_, (2, 3)),
    factor=st.floats(0.125, 8, width=32),
)
def test_normalised_maps(activation: np.ndarray, present: np.ndarray, factor: float) -> None:
    maps = torch.from_numpy(activation)
    scores = normalise(maps, torch.from_numpy(present))
    assert scores.shape == maps.shape and torch.isfinite(scores).all()
    for b in range(2):
        for k in range(3):
            one = scores[b, k]
            if not present[b, k] or activation[b, k].max() == 0:
                assert not one.any()
            else:
                assert float(one.max()) == 1 and float(one.min()) >= 0
                order = np.argsort(activation[b, k].ravel(), kind="stable")
                assert (np.diff(one.numpy().ravel()[order]) >= 0).all(), "the order of pixels stays"
    scaled = normalise(maps * factor, torch.from_numpy(present))
    torch.testing.assert_close(scaled, scores, rtol=1e-4, atol=1e-6)
    assert torch.equal(maps, torch.from_numpy(activation))


class Says(nn.Module):
    """A network that answers what it is told to."""

    def __init__(self, output: CamOutput) -> None:
        super().__init__()
        self.output = output

    def forward(self, _: Tensor) -> CamOutput:
        return self.output


def scores_of(output: CamOutput) -> tuple[Tensor, Tensor]:
    return ScoreNetwork(Says(output))(torch.zeros(1, 3, 8, 8))  # type: ignore[no-any-return]


def test_classes_score_whose_tag_is_likely_in_the_mean_of_the_heads() -> None:
    heads = {"a": torch.tensor([[4.0, -1.0, -3.0, 0.0]]), "b": torch.tensor([[-2.0, -1.0, 3.5, 0.0]])}
    scores, tags = scores_of(CamOutput(heads, "cam", torch.ones(1, 4, 2, 2), 8, {}))
    assert scores.amax(dim=(-2, -1)).tolist() == [[1.0, 0.0, 1.0, 1.0]]
    assert torch.allclose(tags, torch.tensor([[1.0, -1.0, 0.25, 0.0]]).sigmoid())


def test_the_refined_map_is_used_where_there_is_one() -> None:
    raw, refined = torch.zeros(1, 1, 2, 2), torch.tensor([[[[0.0, 2.0], [1.0, 0.5]]]])
    assert scores_of(CamOutput({"cam": torch.ones(1, 1)}, "cam", raw, 8, {}, refined))[0].tolist() == [
        [[[0.0, 1.0], [0.5, 0.25]]]
    ]
    assert not scores_of(CamOutput({"cam": torch.ones(1, 1)}, "cam", raw, 8, {}))[0].any()
