"""Model files: what goes in comes out, and nothing that is damaged or hostile gets further than a ModelFileError."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from deal_core.errors import ModelFileError
from deal_core.models.factory import create_model
from deal_core.models.model_file import FORMAT_VERSION, ModelInfo, Threshold, load_model, read_info, save_model
from deal_core.structures import ClassList

ARGUMENTS = {"backbone": "test_resnet", "width": 8, "levels": [-3], "weights": "hub"}
CLASSES = ClassList(("mug", "Bohrer ä"), ((1, 2, 3), (255, 0, 9)))
INFO = ModelInfo("cam_net", ARGUMENTS, CLASSES, (48, 64), Threshold(0.37, "otsu"), {"steps": 12, "note": "x"})


def network(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    net = create_model("cam_net", 2, **{**ARGUMENTS, "weights": "none"})
    for tensor in net.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(torch.rand_like(tensor) * 0.1)
    return net.eval()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "deep" / "model.safetensors"
    save_model(path, network(), INFO)
    return path


@pytest.fixture
def with_header(tmp_path: Path) -> Callable[..., Path]:
    """Write a model file with some values of its header changed, or with another text for a header."""

    def write(change: Callable[[dict[str, Any]], None] | str) -> Path:
        header = {
            "format_version": FORMAT_VERSION,
            "architecture": "cam_net",
            "arguments": {**ARGUMENTS, "weights": "none"},
            "classes": [{"name": "mug", "color": [1, 2, 3]}, {"name": "drill", "color": [4, 5, 6]}],
            "input_size": [48, 64],
            "threshold": {"value": 0.4, "rule": "otsu"},
            "training": {},
        }
        if callable(change):
            change(header)
        text = change if isinstance(change, str) else json.dumps(header)
        path = tmp_path / "changed.safetensors"
        save_file(network().state_dict(), path, metadata={"deal": text})
        return path

    return write


def test_outputs_and_description_are_the_same_after_loading(model: Path) -> None:
    loaded = load_model(model)
    image = torch.rand(2, 3, 48, 64)
    ours, theirs = network()(image), loaded.network(image)
    assert torch.equal(ours.cams, theirs.cams) and torch.equal(ours.tag_logits["cam"], theirs.tag_logits["cam"])
    assert not loaded.network.training
    settled = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "freeze_batch_norm": False}
    arguments = {**ARGUMENTS, "weights": "none", **settled, "activation": "above_mean"}
    expected = ModelInfo("cam_net", arguments, CLASSES, (48, 64), INFO.threshold, INFO.training)
    assert loaded.info == read_info(model) == expected
    assert loaded.sha256 == hashlib.sha256(model.read_bytes()).hexdigest()
    assert [p.name for p in model.parent.iterdir()] == ["model.safetensors"]


def test_a_file_without_what_weights_settle_is_taken_as_version_0_1_0_meant_it(with_header: Any) -> None:
    path = with_header(lambda header: header["arguments"].pop("mean", None))
    loaded = load_model(path).network
    # timm names half grey for these weights; version 0.1.0 took the colours of ImageNet whatever they were.
    assert loaded.normalise_colours.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert loaded(torch.rand(1, 3, 48, 64)).activated == "relu"


def test_weights_stored_channels_last_and_in_training_mode(tmp_path: Path) -> None:
    net = network().to(memory_format=torch.channels_last).train()
    save_model(tmp_path / "m.safetensors", net, INFO)
    image = torch.rand(1, 3, 48, 64)
    assert torch.equal(load_model(tmp_path / "m.safetensors").network(image).cams, network()(image).cams)
    assert net.training


def test_expected_classes(model: Path) -> None:
    assert load_model(model, expected_classes=ClassList(CLASSES.names)).info.classes == CLASSES
    for names in (("Bohrer ä", "mug"), ("mug",), ("mug", "Bohrer ä", "cup")):
        with pytest.raises(ModelFileError) as caught:
            load_model(model, expected_classes=ClassList(names))
        assert str(list(names)) in str(caught.value) and "['mug', 'Bohrer ä']" in str(caught.value)


def test_an_exported_file_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "robot.onnx").write_bytes(b"onnx")
    with pytest.raises(ModelFileError, match=r"robot\.onnx: an \.onnx file makes masks .* the \.safetensors"):
        load_model(tmp_path / "robot.onnx")


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_anywhere_is_refused(model: Path, tmp_path: Path, share: float) -> None:
    data = model.read_bytes()
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(data[: int(share * len(data))])
    for read in (load_model, read_info):
        with pytest.raises(ModelFileError, match="damaged or truncated"):
            read(cut)


def test_a_file_cut_at_each_of_its_first_and_last_bytes_is_refused(model: Path, tmp_path: Path) -> None:
    data = model.read_bytes()
    cut = tmp_path / "cut.safetensors"
    for length in [*range(0, 300), *range(len(data) - 20, len(data))]:
        cut.write_bytes(data[:length])
        with pytest.raises(ModelFileError):
            load_model(cut)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_flipped_bytes_of_the_header_never_end_in_another_error(
    model: Path, tmp_path: Path, data: st.DataObject
) -> None:
    content = bytearray(model.read_bytes())
    header = int.from_bytes(content[:8], "little") + 8
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, header - 1))] = data.draw(st.integers(0, 255))
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(bytes(content))
    try:
        loaded = load_model(damaged)
    except ModelFileError as error:
        assert str(damaged) in str(error)
    else:
        assert len(loaded.info.classes) == 2


@pytest.mark.parametrize("content", [b"", b"\0" * 8, b"\xff" * 64, b"PK\x03\x04 a zip", b"{}", b"\x80\x04K\x01."])
def test_garbage_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "garbage.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"not a \.safetensors file"):
        load_model(path)


def test_what_is_no_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="found nothing"):
        load_model(tmp_path / "no.safetensors")
    with pytest.raises(ModelFileError, match="found a folder"):
        read_info(tmp_path)


def test_a_file_of_another_tool_is_told(tmp_path: Path) -> None:
    path = tmp_path / "plain.safetensors"
    for metadata in (None, {"format": "pt"}):
        save_file({"x": torch.zeros(3)}, path, metadata=metadata)
        with pytest.raises(ModelFileError, match="without a DEAL header"):
            load_model(path)


def test_a_newer_format_is_told_whatever_else_it_holds(with_header: Callable[..., Path]) -> None:
    path = with_header(json.dumps({"format_version": FORMAT_VERSION + 1, "architecture": {"new": 1}}))
    with pytest.raises(ModelFileError, match=f"format {FORMAT_VERSION + 1} is newer.*update"):
        load_model(path)


def changed(*keys: str | int, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(header: dict[str, Any]) -> None:
        *parents, last = keys
        place: Any = header
        for key in parents:
            place = place[key]
        place[last] = to

    return change


@pytest.mark.parametrize(
    "change",
    [
        "",
        "not JSON",
        "[]",
        "null",
        '"text"',
        "[" * 100_000,
        "{" + '"a":{' * 100_000,
        changed("format_version", to="1"),
        changed("format_version", to=None),
        changed("format_version", to=float("inf")),
        changed("format_version", to=1.5),
        changed("architecture", to=3),
        changed("architecture", to="cam_nte"),
        changed("arguments", to=[["backbone", "test_resnet"]]),
        changed("arguments", "backbone", to="resnet81"),
        changed("arguments", "backbone", to=7),
        changed("arguments", "nonsense", to=7),
        changed("arguments", "num_classes", to=7),
        changed("arguments", "width", to="wide"),
        changed("arguments", "width", to=-1),
        changed("arguments", "width", to=10**15),
        changed("arguments", "levels", to=[99]),
        changed("arguments", "levels", to=None),
        changed("arguments", "mean", to="grey"),
        changed("arguments", "std", to=[0, 0, 0]),
        changed("arguments", "dropout", to="yes"),
        changed("arguments", "backbone_arguments", to=[1]),
        changed("arguments", "backbone_arguments", to={"block": "os.system"}),
        changed("classes", to={}),
        changed("classes", to=[]),
        changed("classes", to=["mug", "drill"]),
        changed("classes", to=[{"name": "mug"}, {"name": "mug"}]),
        changed("classes", 0, "name", to=3),
        changed("classes", 0, "color", to=[1, 2]),
        changed("classes", 0, "color", to=[1, 2, 300]),
        changed("classes", 0, "color", to=7),
        changed("input_size", to=[48]),
        changed("input_size", to=[48, 64, 3]),
        changed("input_size", to=[0, 64]),
        changed("input_size", to=[-48, 64]),
        changed("input_size", to=[48, 10**9]),
        changed("input_size", to=["48", "64"]),
        changed("input_size", to=48),
        changed("threshold", to=0.4),
        changed("threshold", "value", to="high"),
        changed("threshold", "value", to=1.5),
        changed("threshold", "value", to=float("nan")),
        changed("threshold", "rule", to=None),
        changed("training", to="long"),
    ],
)
def test_wrong_headers_are_refused(
    with_header: Callable[..., Path], change: Callable[[dict[str, Any]], None] | str
) -> None:
    path = with_header(change)
    with pytest.raises(ModelFileError) as caught:
        load_model(path)
    assert str(path) in str(caught.value) and "header" in str(caught.value)


@pytest.mark.parametrize(
    "key", ["format_version", "architecture", "arguments", "classes", "input_size", "threshold", "training"]
)
def test_missing_parts_of_the_header_are_named(with_header: Callable[..., Path], key: str) -> None:
    with pytest.raises(ModelFileError, match=rf"damaged \({key}"):
        read_info(with_header(lambda header: header.pop(key)))


def test_weights_that_do_not_fit(with_header: Callable[..., Path], tmp_path: Path) -> None:
    three = [{"name": n, "color": [1, 2, 3]} for n in "abc"]
    for change, first in (
        (changed("classes", to=three), "classifier.weight"),
        (changed("arguments", "width", to=16), "project.0.0.weight"),
        (changed("arguments", "levels", to=[-3, -2]), "backbone"),
        (changed("arguments", "backbone", to="test_convnext"), "backbone.stem_0.weight"),
    ):
        with pytest.raises(ModelFileError, match=f"weights do not fit 'cam_net'.*{first}"):
            load_model(with_header(change))
    tensors = network().state_dict()
    header = _header_of(with_header(changed("training", to={})))
    fewer = {n: t for n, t in tensors.items() if n != "classifier.bias"}
    save_file(fewer, tmp_path / "fewer", metadata={"deal": header})
    with pytest.raises(ModelFileError, match=r"classifier\.bias"):
        load_model(tmp_path / "fewer")
    save_file({**tensors, "extra": torch.zeros(1)}, tmp_path / "more", metadata={"deal": header})
    with pytest.raises(ModelFileError, match="'extra'"):
        load_model(tmp_path / "more")


def _header_of(path: Path) -> str:
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return str(header["__metadata__"]["deal"])


def test_a_header_cannot_ask_for_other_files(
    with_header: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model file from elsewhere must neither download nor open (let alone unpickle) anything."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for weights in ("hub", str(tmp_path / "other.safetensors")):
        load_model(with_header(changed("arguments", "weights", to=weights)))
    pickled = tmp_path / "weights.pth"
    torch.save({}, pickled)
    for argument in ("checkpoint_path", "pretrained", "pretrained_cfg_overlay", "pretrained_cfg"):
        path = with_header(changed("arguments", "backbone_arguments", to={argument: str(pickled)}))
        with pytest.raises(ModelFileError, match=f"cannot set '{argument}'"):
            load_model(path)


def test_a_failing_save_leaves_no_file_and_keeps_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors"
    save_model(path, network(), INFO)
    before = path.read_bytes()

    def stop_with(error: BaseException) -> Callable[[Path, bytes], None]:
        def write_half(file: Path, data: bytes) -> None:
            with file.open("wb") as half:
                half.write(data[: len(data) // 2])
            raise error

        return write_half

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", stop_with(OSError(28, "No space left on device")))
        with pytest.raises(ModelFileError, match=f"{path}.*: the disk is full"):
            save_model(path, network(1), INFO)
        patch.setattr(Path, "write_bytes", stop_with(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            save_model(path, network(1), INFO)
    with pytest.raises(TypeError):
        save_model(path, network(1), ModelInfo("cam_net", {"width": {1, 2}}, CLASSES, (48, 64), INFO.threshold))
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"] and path.read_bytes() == before
    save_model(path, network(1), INFO)
    assert path.read_bytes() != before


def test_others_may_read_a_model_file_as_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        save_model(tmp_path / "model.safetensors", network(), INFO)
    finally:
        os.umask(before)
    assert (tmp_path / "model.safetensors").stat().st_mode & 0o777 == 0o644


def test_places_that_cannot_be_written_are_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "model.safetensors", tmp_path / "folder"):
        with pytest.raises(ModelFileError, match="cannot be written"):
            save_model(path, network(), INFO)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "folder"]


@pytest.mark.parametrize(
    ("value", "rule", "failed"),
    [(0.0, "depth_relief", True), (0.99, "otsu", True), (0.05, "otsu", False), (0.0, "fixed:0", False)],
)
def test_a_chosen_threshold_at_an_end_of_its_range_has_failed(value: float, rule: str, failed: bool) -> None:
    assert Threshold(value, rule).has_failed is failed
