"""From a model file to a back end that runs; what each gives is what PyTorch gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from deal_core.errors import BackendError, UsageError
from deal_core.models.factory import create_model
from deal_core.models.model_file import ModelInfo, Threshold, save_model
from deal_core.runtime import open_backend as module
from deal_core.runtime.backends import tensorrt_backend
from deal_core.runtime.backends.cache import keep
from deal_core.runtime.backends.choice import Here, Wanted
from deal_core.runtime.backends.tensorrt_backend import engine_key, engine_precision, load_engine
from deal_core.runtime.open_backend import open_backend, scaled_size
from deal_core.runtime.segmenter import Segmenter
from deal_core.structures import ClassList

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (extra export)")
pytest.importorskip("onnx", reason="onnx is not installed (extra export)")


def image(seed: int = 0, size: tuple[int, int] = (48, 64)) -> torch.Tensor:
    return torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(4)
    arguments = {"backbone": "test_resnet", "width": 16}
    network = create_model("cam_net", 3, **arguments)
    with torch.no_grad():
        network.classifier.weight *= 30
        network.classifier.bias += torch.tensor([3.0, 1.0, 2.0])
    path = tmp_path_factory.mktemp("models") / "model.safetensors"
    classes = ClassList(("mug", "drill", "box"))
    save_model(path, network, ModelInfo("cam_net", arguments, classes, (48, 64), Threshold(0.5, "otsu")))
    return path


@pytest.mark.slow
def test_onnxruntime_scores_are_those_of_torch_and_come_from_the_cache_next_time(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch_one = open_backend(model, Wanted(backend="torch", device="cpu"), tmp_path)
    ort = open_backend(model, Wanted(backend="onnxruntime"), tmp_path)
    assert (ort.backend.name, ort.backend.device, ort.backend.precision) == ("onnxruntime", "cpu", "float32")
    assert ort.model_sha256 == torch_one.model_sha256
    for seed in range(3):
        expected = torch_one.backend(image(seed))
        np.testing.assert_allclose(ort.backend(image(seed)), expected, atol=1e-3)
    monkeypatch.setattr("deal_core.runtime.onnx_export.export_onnx", lambda *_: pytest.fail("it was made before"))
    open_backend(model, Wanted(backend="onnxruntime"), tmp_path)


def test_a_back_end_that_fails_is_passed_over_when_nobody_named_it(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def cannot(*_: object) -> None:
        raise BackendError("the network cannot be exported")

    monkeypatch.setattr("deal_core.runtime.onnx_export.export_onnx", cannot)
    opened = open_backend(model, Wanted(device="cpu"), tmp_path)
    assert opened.backend.name == "torch" and "not onnxruntime: the network cannot be exported" in opened.reason
    assert "trying the next" in caplog.text
    with pytest.raises(BackendError, match="cannot be exported"):
        open_backend(model, Wanted(backend="onnxruntime"), tmp_path)


def test_nothing_but_torch_is_needed(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "look_here", lambda: Here(gpu=False, installed=()))
    opened = open_backend(model, Wanted(), tmp_path / "never_made")
    assert opened.backend.name == "torch" and not (tmp_path / "never_made").exists()


@pytest.mark.parametrize(
    ("own", "side", "expected"),
    [
        ((48, 64), 0, (48, 64)),
        ((48, 64), 96, (96, 128)),
        ((64, 48), 96, (128, 96)),
        ((120, 213), 60, (60, 104)),
        ((224, 224), 225, (225, 225)),
    ],
)
def test_another_size_keeps_the_proportions(own: tuple[int, int], side: int, expected: tuple[int, int]) -> None:
    assert scaled_size(own, side) == expected


@pytest.mark.parametrize("side", [-1, 31, 4097])
def test_a_size_out_of_range_is_refused(side: int) -> None:
    with pytest.raises(UsageError, match="32 to 4096"):
        scaled_size((48, 64), side)


@pytest.mark.slow
def test_a_cache_that_cannot_be_written_is_done_without(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("a file in the way, as nobody is kept out who may write everywhere")
    opened = open_backend(model, Wanted(backend="onnxruntime"), tmp_path / "cache")
    assert opened.backend(image()).shape == (3, 6, 8)
    assert f"{tmp_path / 'cache'}" in caplog.text and "cannot be written" in caplog.text


@pytest.mark.slow
def test_the_segmenter_runs_at_another_size_on_each_back_end(model: Path, tmp_path: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
    masks = []
    for backend in ("torch", "onnxruntime"):
        segmenter = Segmenter.load(model, "cpu", backend=backend, engine_cache_dir=tmp_path, input_size=96)
        assert segmenter.input_size == (96, 128) and segmenter.backend == backend
        masks.append(segmenter.segment(rgb).mask)
    assert (masks[0] == masks[1]).mean() > 0.99


class OldFlags:
    FP16 = 1


class OldTensorRt:
    __version__ = "10.3.0"
    BuilderFlag = OldFlags


class NewTensorRt:
    __version__ = "11.0.0"

    class BuilderFlag:
        pass


def test_precision_of_an_engine_is_what_this_tensorrt_can_choose() -> None:
    assert engine_precision("auto", OldTensorRt) == "float16" and engine_precision("float32", OldTensorRt) == "float32"
    assert engine_precision("auto", NewTensorRt) == "float32"
    with pytest.raises(BackendError, match=r"TensorRT 11\.0\.0 no longer lowers the precision"):
        engine_precision("float16", NewTensorRt)


def test_an_engine_is_of_one_model_gpu_tensorrt_precision_and_size() -> None:
    key = engine_key(b"model", "Orin", "10.3.0", "float16", (48, 64))
    others = (
        engine_key(b"other", "Orin", "10.3.0", "float16", (48, 64)),
        engine_key(b"model", "H100", "10.3.0", "float16", (48, 64)),
        engine_key(b"model", "Orin", "10.4.0", "float16", (48, 64)),
        engine_key(b"model", "Orin", "10.3.0", "float32", (48, 64)),
        engine_key(b"model", "Orin", "10.3.0", "float16", (96, 64)),
    )
    assert all(key != other for other in others)


class StandInTensorRt:
    """Loads the plans of one TensorRT alone, as TensorRT does: another's give None."""

    __version__ = "10.3.0"

    class Logger:
        WARNING = 0

        def __init__(self, level: int) -> None:
            pass

    class Runtime:
        def __init__(self, logger: object) -> None:
            pass

        def deserialize_cuda_engine(self, plan: bytes) -> str | None:
            return plan.decode() if plan.startswith(b"plan of 10.3.0") else None


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was built, in order."""
    found: list[str] = []

    def build(trt: object, data: bytes, precision: str, input_size: tuple[int, int]) -> bytes:
        found.append(f"plan of 10.3.0, number {len(found)}")
        return found[-1].encode()

    monkeypatch.setattr(tensorrt_backend, "_build_engine", build)
    return found


def start_with(cache: Path) -> str:
    key = engine_key(b"model", "Orin", "10.3.0", "float16", (48, 64))
    return str(load_engine(StandInTensorRt, b"model", "float16", (48, 64), cache, key))


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "of another TensorRT", "removed"])
def test_an_engine_that_cannot_be_used_is_built_again_once(
    tmp_path: Path, built: list[str], damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert start_with(tmp_path) == start_with(tmp_path) == built[0] and len(built) == 1
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    if damage == "of another TensorRT":  # and whole, as where the system was updated beneath the same version
        key = engine_key(b"model", "Orin", "10.3.0", "float16", (48, 64))
        keep(tmp_path, "engine", key, b"plan of 9.0.0")
    elif damage == "removed":
        file.unlink()
    else:
        file.write_bytes({"cut": whole[:-1], "flipped": whole[:-1] + b"\xff", "empty": b""}[damage])
    caplog.clear()
    assert start_with(tmp_path) == built[1]
    assert (str(tmp_path) in caplog.text and "again" in caplog.text) == (damage != "removed")
    assert start_with(tmp_path) == built[1] and len(built) == 2


def test_an_engine_that_does_not_load_once_built_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_backend, "_build_engine", lambda *_: b"of no use")
    with pytest.raises(BackendError, match="cannot load the engine that it has built"):
        start_with(tmp_path)


@pytest.mark.gpu
@pytest.mark.parametrize("fixture", ["model", "rgbd_model"])
def test_tensorrt_gives_what_torch_gives(fixture: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt", reason="tensorrt is not installed")
    path = request.getfixturevalue(fixture)
    depth = (2 * torch.rand(1, 1, 48, 64) - 0.3).clamp(min=0) if fixture == "rgbd_model" else None
    scores = [
        open_backend(path, Wanted(backend=name, device="cuda", precision="float32"), tmp_path).backend(image(), depth)
        for name in ("torch", "tensorrt", "tensorrt")  # the third comes from the cache
    ]
    np.testing.assert_allclose(scores[1], scores[0], atol=5e-3)
    np.testing.assert_array_equal(scores[2], scores[1])
