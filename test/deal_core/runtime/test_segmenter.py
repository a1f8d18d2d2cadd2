"""The segmenter against its parts put together by hand, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deal_core.dataset.network_input import resize_image
from deal_core.devices import resolve_device
from deal_core.errors import ModelFileError, UsageError
from deal_core.models.factory import create_model
from deal_core.models.model_file import ModelInfo, Threshold, load_model, save_model
from deal_core.models.output import CamOutput
from deal_core.runtime.backends.choice import Precision
from deal_core.runtime.backends.torch_backend import TorchBackend
from deal_core.runtime.open_backend import Opened
from deal_core.runtime.segmenter import Segmenter
from deal_core.structures import ClassList

CLASSES = ClassList(("mug", "drill", "box"))
INPUT_SIZE = (48, 64)
THRESHOLD = 0.88


class Known(nn.Module):
    """Says what it is told to: CAMs (K, h, w), and which classes are there."""

    def __init__(self, cams: Tensor, present: tuple[bool, ...]) -> None:
        super().__init__()
        self.cams, self.present = cams[None], present
        self.seen: list[Tensor] = []

    def forward(self, image: Tensor) -> CamOutput:
        self.seen.append(image)
        logits = torch.tensor([[5.0 if p else -5.0 for p in self.present]])
        return CamOutput({"cam": logits}, "cam", self.cams, 8, {})


def segmenter_of(network: nn.Module, threshold: float = 0.4) -> Segmenter:
    info = ModelInfo("cam_net", {}, CLASSES, INPUT_SIZE, Threshold(threshold, "fixed"))
    return Segmenter(Opened(TorchBackend(network, "cpu", "float32"), info, "hash", INPUT_SIZE, ""))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(4)
    arguments = {"backbone": "test_resnet", "width": 16}
    network = create_model("cam_net", 3, **arguments)
    with torch.no_grad():
        network.classifier.weight *= 30
        network.classifier.bias += torch.tensor([3.0, 1.0, 2.0])
    path = tmp_path_factory.mktemp("models") / "model.safetensors"
    save_model(path, network, ModelInfo("cam_net", arguments, CLASSES, INPUT_SIZE, Threshold(THRESHOLD, "otsu")))
    return path


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def by_hand(path: Path, rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mask and confidence pixel by pixel, from the network's raw output."""
    loaded = load_model(path)
    small = torch.from_numpy(resize_image(rgb, INPUT_SIZE).transpose(2, 0, 1)[None] / np.float32(255))
    with torch.no_grad():
        output = loaded.network(small)
        maps = F.interpolate(output.cams.clamp(min=0), rgb.shape[:2], mode="bilinear", align_corners=False)[0].numpy()
    probability = 1 / (1 + np.exp(-output.tag_logits["cam"][0].numpy()))
    scores = np.zeros_like(maps)
    for k in range(3):
        if probability[k] >= 0.5 and maps[k].max() > 0:
            scores[k] = maps[k] / maps[k].max()
    mask, confidence = np.zeros(rgb.shape[:2], np.uint8), np.zeros(rgb.shape[:2], np.float32)
    for row in range(rgb.shape[0]):
        for column in range(rgb.shape[1]):
            best = int(np.argmax(scores[:, row, column]))
            top = scores[best, row, column]
            mask[row, column] = best + 1 if top > loaded.info.threshold.value else 0
            confidence[row, column] = top if mask[row, column] else 1 - top
    return mask, confidence


@pytest.mark.parametrize("size", [INPUT_SIZE, (120, 160), (37, 53), (20, 90), (1, 1)])
def test_masks_and_confidences_are_those_made_by_hand(model: Path, size: tuple[int, int]) -> None:
    rgb = photo(*size)
    result = Segmenter.load(model, device="cpu").segment(rgb)
    mask, confidence = by_hand(model, rgb)
    assert result.mask.shape == result.confidence.shape == size
    assert result.mask.dtype == np.uint8 and result.confidence.dtype == np.float32
    near_the_threshold = np.abs(np.where(mask, confidence, 1 - confidence) - THRESHOLD) < 1e-3
    assert (result.mask == mask)[~near_the_threshold].all()
    np.testing.assert_allclose(result.confidence[~near_the_threshold], confidence[~near_the_threshold], atol=1e-3)
    if size == (120, 160):
        assert len(np.unique(mask)) > 2, "the comparison must have something to compare"
        assert (result.mask == 0).any()


def test_the_confidence_is_computed_when_it_is_read(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from deal_core.runtime import segmenter

    calls: list[object] = []
    plain = segmenter.decide
    monkeypatch.setattr(segmenter, "decide", lambda *given, **named: calls.append(given) or plain(*given, **named))
    result = Segmenter.load(model, device="cpu").segment(photo(60, 80))
    assert not calls
    assert result.confidence is result.confidence and len(calls) == 1


def test_the_same_image_gives_the_same_answer(model: Path) -> None:
    rgb = photo(60, 80)
    first = Segmenter.load(model, device="cpu")
    one, two = first.segment(rgb), first.segment(rgb.copy())
    three = Segmenter.load(model, device="cpu").segment(np.flip(np.flip(rgb, 1).copy(), 1))  # not contiguous
    for other in (two, three):
        assert np.array_equal(one.mask, other.mask) and np.array_equal(one.confidence, other.confidence)


def test_the_network_sees_the_image_at_its_input_size_in_range() -> None:
    network = Known(torch.rand(3, 6, 8), (True, True, True))
    segmenter_of(network).segment(np.full((90, 30, 3), (255, 51, 0), np.uint8))
    (seen,) = network.seen
    assert seen.shape == (1, 3, *INPUT_SIZE)
    for channel, value in enumerate((1.0, 0.2, 0.0)):
        assert torch.allclose(seen[0, channel], torch.tensor(value), atol=1e-5)


def test_classes_that_the_network_does_not_see_never_appear() -> None:
    cams = torch.zeros(3, 6, 8)
    cams[0, :, :4], cams[1, :, 4:], cams[2] = 5.0, 1.0, 100.0
    result = segmenter_of(Known(cams, (True, True, False))).segment(photo(6, 8))
    # Each map is divided by its own maximum: the weaker class is as certain as the stronger one.
    assert (result.mask[:, :4] == 1).all() and (result.mask[:, 4:] == 2).all()
    assert np.allclose(result.confidence, 1)
    nothing = segmenter_of(Known(cams, (False, False, False))).segment(photo(6, 8))
    assert (nothing.mask == 0).all() and (nothing.confidence == 1).all()


def test_a_score_at_the_threshold_is_background() -> None:
    cams = torch.tensor([[[1.0, 0.5, 0.25, 0.0]]] + [[[0.0] * 4]] * 2)
    result = segmenter_of(Known(cams, (True,) * 3), threshold=0.5).segment(photo(1, 4))
    assert result.mask.tolist() == [[1, 0, 0, 0]]
    assert result.confidence.tolist() == [[1.0, 0.5, 0.75, 1.0]]


def test_negative_maps_are_background() -> None:
    result = segmenter_of(Known(torch.full((3, 6, 8), -2.0), (True,) * 3), threshold=0.0).segment(photo(6, 8))
    assert (result.mask == 0).all() and (result.confidence == 1).all()


def test_description_and_warm_up(model: Path) -> None:
    segmenter = Segmenter.load(str(model), device="cpu")
    assert segmenter.classes == CLASSES and segmenter.device == "cpu" and segmenter.precision == "float32"
    assert segmenter.model_hash == load_model(model).sha256 and segmenter.uses_depth is False
    network = Known(torch.zeros(3, 6, 8), (True,) * 3)
    segmenter_of(network).warm_up(30, 40, iterations=2)
    assert len(network.seen) == 2 and not network.training


def test_depth_is_taken_and_makes_no_difference_to_a_network_without_it(model: Path) -> None:
    segmenter, rgb = Segmenter.load(model, device="cpu"), photo(48, 64)
    depth = np.full((48, 64), np.nan, np.float32)
    assert np.array_equal(segmenter.segment(rgb, depth).mask, segmenter.segment(rgb).mask)


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_lower_precision_gives_nearly_the_same_masks(model: Path, precision: str) -> None:
    rgb = photo(48, 64)
    segmenter = Segmenter.load(model, device="cpu", precision=precision)  # type: ignore[arg-type]
    result, exact = segmenter.segment(rgb), Segmenter.load(model, device="cpu").segment(rgb)
    assert segmenter.precision == precision and result.confidence.dtype == np.float32
    assert (result.mask == exact.mask).mean() > 0.9
    assert not np.array_equal(result.confidence, exact.confidence), "it computed in full precision"


@pytest.mark.parametrize("device", ["gpu", "cuda:nine", "meta", "cpu:cpu", "", "cuda:99"])
def test_unknown_devices_are_refused(model: Path, device: str) -> None:
    with pytest.raises(UsageError, match=f"device '{device}' cannot be used here.*expected auto, cpu, cuda"):
        Segmenter.load(model, device=device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU on this machine")
def test_without_a_gpu_auto_is_the_cpu_and_cuda_an_error(model: Path) -> None:
    assert resolve_device("auto") == "cpu"
    with pytest.raises(UsageError, match="device 'cuda' cannot be used here"):
        Segmenter.load(model, device="cuda")


def test_unknown_precision_and_a_missing_file_are_told(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown precision 'half': expected auto, float32, float16, bfloat16"):
        Segmenter.load(model, device="cpu", precision="half")  # type: ignore[arg-type]
    with pytest.raises(ModelFileError, match="found nothing"):
        Segmenter.load(tmp_path / "no.safetensors", device="cpu")


@pytest.mark.parametrize(
    "rgb",
    [
        np.zeros((48, 64), np.uint8),
        np.zeros((48, 64, 4), np.uint8),
        np.zeros((3, 48, 64), np.uint8),
        np.zeros((48, 64, 3), np.float32),
        np.zeros((48, 64, 3), np.uint16),
        np.zeros((0, 64, 3), np.uint8),
        np.zeros((1, 48, 64, 3), np.uint8),
    ],
    ids=lambda array: f"{array.dtype} {array.shape}",
)
def test_wrong_images_are_refused_with_what_was_found(rgb: np.ndarray) -> None:
    network = Known(torch.zeros(3, 6, 8), (True,) * 3)
    with pytest.raises(ValueError, match="expected rgb as uint8") as caught:
        segmenter_of(network).segment(rgb)
    assert str(rgb.shape) in str(caught.value) and not network.seen


@pytest.mark.parametrize("depth", [np.zeros((64, 48), np.float32), np.zeros((48, 64), np.uint16), np.zeros((48, 64))])
def test_wrong_depth_is_refused_with_what_was_found(depth: np.ndarray) -> None:
    with pytest.raises(ValueError, match=f"expected depth as float32.*{depth.dtype}"):
        segmenter_of(Known(torch.zeros(3, 6, 8), (True,) * 3)).segment(photo(48, 64), depth)


@pytest.mark.gpu
def test_on_the_gpu_masks_are_nearly_those_of_the_cpu(model: Path) -> None:
    rgb = photo(120, 160)
    exact = Segmenter.load(model, device="cpu").segment(rgb)
    for precision, share in (("float32", 0.999), ("auto", 0.97)):
        segmenter = Segmenter.load(model, device="auto", precision=precision)  # type: ignore[arg-type]
        assert segmenter.device == "cuda"
        assert segmenter.precision == ("float16" if precision == "auto" else precision)
        segmenter.warm_up(120, 160)
        assert (segmenter.segment(rgb).mask == exact.mask).mean() >= share


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
def test_compiled_on_the_gpu_masks_are_nearly_the_same(model: Path, precision: Precision) -> None:
    rgb = photo(120, 160)
    exact = Segmenter.load(model, device="cpu").segment(rgb)
    segmenter = Segmenter.load(model, "cuda", precision, backend="torch", compile=True)
    segmenter.warm_up(120, 160)
    assert (segmenter.segment(rgb).mask == exact.mask).mean() >= (0.999 if precision == "float32" else 0.95)
