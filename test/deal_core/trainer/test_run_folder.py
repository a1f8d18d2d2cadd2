"""Run folders: damaged files, other settings, and histories."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch
import yaml
from helpers.training_runs import STEPS, MakeSettings, StoppedError, history, stop_after
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from deal_core.errors import ConfigError, ModelFileError
from deal_core.settings_file import load_settings
from deal_core.trainer.cam_training import train
from deal_core.trainer.run_folder import RunLog, as_begun
from deal_core.trainer.settings import TrainSettings


def test_damaged_checkpoints_are_told(make_settings: MakeSettings) -> None:
    settings = make_settings()
    with pytest.raises(StoppedError):
        train(settings, stop_after(4))
    checkpoint = settings.output / "checkpoint.pt"
    good = checkpoint.read_bytes()
    contents = torch.load(checkpoint, weights_only=True)
    bad: list[bytes | dict[str, Any] | list[int]] = [
        *(b"", b"garbage", b"\x80\x02K\x01.", good[:100], good[: len(good) // 2], good[:-1]),
        *([1, 2], {}, {**contents, "step": "four"}, {**contents, "network": {}}, {**contents, "optimizer": {}}),
    ]
    for content in bad:
        if isinstance(content, bytes):
            checkpoint.write_bytes(content)
        else:
            torch.save(content, checkpoint)
        with pytest.raises(ModelFileError, match=r"damaged checkpoint.*delete it to start the run again") as caught:
            train(settings)
        assert str(checkpoint) in str(caught.value) and "\n" not in str(caught.value)
    checkpoint.unlink()
    assert train(settings).resumed_from == 0


def test_a_checkpoint_with_code_in_it_is_not_run(make_settings: MakeSettings, tmp_path: Path) -> None:
    settings = make_settings()
    with pytest.raises(StoppedError):
        train(settings, stop_after(4))

    class Harmful:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "harm",))

    torch.save({"step": Harmful(), "total_steps": STEPS}, settings.output / "checkpoint.pt")
    with pytest.raises(ModelFileError, match="damaged checkpoint"):
        train(settings)
    assert not (tmp_path / "harm").exists()


def test_a_checkpoint_that_cannot_be_written_keeps_the_old_one(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings()
    with pytest.raises(StoppedError):
        train(settings, stop_after(4))
    checkpoint = settings.output / "checkpoint.pt"
    before = checkpoint.read_bytes()

    def stop_with(error: Exception, before: Exception | None) -> Callable[[object, BinaryIO], None]:
        def save_half(content: object, file: BinaryIO) -> None:
            file.write(b"half")
            error.__context__ = before
            raise error

        return save_half

    full = OSError(28, "No space left on device")
    unexpected = RuntimeError("unexpected pos 704 vs 598")  # what torch says, and Python before it, of a full disk
    for error, cause, told in (
        (full, None, "the disk is full"),
        (unexpected, full, "the disk is full"),
        (RuntimeError("unexpected pos 704 vs 598"), None, "unexpected pos 704 vs 598"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(torch, "save", stop_with(error, cause))
            with pytest.raises(ModelFileError, match=f"{checkpoint}: the checkpoint cannot be written: {told}"):
                train(settings)
    assert checkpoint.read_bytes() == before and not list(settings.output.glob(".*"))
    assert train(settings).resumed_from == 3


def test_a_run_folder_of_other_settings_is_refused_and_says_which(make_settings: MakeSettings) -> None:
    settings = make_settings()
    with pytest.raises(StoppedError):
        train(settings, stop_after(4))
    before = history(settings.output)
    other = make_settings("deal.weight=0", "model.arguments.width=16", "epochs=4")
    with pytest.raises(ConfigError) as caught:
        train(other)
    message = str(caught.value)
    assert str(settings.output) in message and "deal.weight is 1.0 there and 0.0 here" in message
    assert "model.arguments.width is 8 there and 16 here" in message and "epochs is 3 there and 4 here" in message
    assert "seed" not in message and history(settings.output) == before
    assert load_settings(TrainSettings, settings.output / "settings.yaml") == settings


def test_a_run_may_go_on_with_other_settings_that_do_not_touch_the_weights(
    make_settings: MakeSettings, reference: Callable[..., Path]
) -> None:
    with pytest.raises(StoppedError):
        train(make_settings("log_every=3"), stop_after(4))
    changed = make_settings("threshold_rule=fixed:0.125", "checkpoint_every=1", "data.workers=1")
    result = train(changed)
    assert result.resumed_from == 3 and result.threshold.value == 0.125
    ours, theirs = load_file(result.model), load_file(reference(make_settings) / "model.safetensors")
    assert all(torch.equal(t, theirs[n]) for n, t in ours.items())
    assert load_settings(TrainSettings, changed.output / "settings.yaml") == changed


def older_run(make_settings: MakeSettings) -> TrainSettings:
    """Begin a run, and make its settings file what version 0.1.0 would have written."""
    settings = make_settings("deal.holes=ignore", "deal.cam_value=relu_max", "bias_from_tags=false", "sampling=plain")
    with pytest.raises(StoppedError):
        train(settings, stop_after(4))
    file = settings.output / "settings.yaml"
    values = yaml.safe_load(file.read_text())
    del values["deal"]["holes"], values["bias_from_tags"], values["sampling"], values["taps"]
    values["optimizer"]["backbone_factor"] = 1.0
    file.write_text(yaml.safe_dump(values))
    return settings


def test_a_run_of_version_0_1_0_goes_on_as_it_began(make_settings: MakeSettings) -> None:
    older_run(make_settings)
    settings = as_begun(make_settings())
    assert (settings.deal.holes, settings.deal.cam_value, settings.bias_from_tags) == ("ignore", "relu_max", False)
    assert settings.optimizer.backbone_factor == 1.0
    assert settings.model.arguments["activation"] == "relu"
    assert train(make_settings()).resumed_from == 3
    # The run folder now says all of it.
    again = load_settings(TrainSettings, settings.output / "settings.yaml")
    assert (again.deal.holes, again.sampling, again.model.arguments["activation"]) == ("ignore", "plain", "relu")


def test_what_is_given_now_still_counts_in_a_run_of_version_0_1_0(make_settings: MakeSettings) -> None:
    older_run(make_settings)
    with pytest.raises(ConfigError, match=r"deal\.holes is 'ignore' there and 'fill' here"):
        train(make_settings("deal.holes=fill"))


def test_a_new_run_keeps_its_settings(make_settings: MakeSettings) -> None:
    settings = make_settings()
    assert as_begun(settings) is settings
    with pytest.raises(StoppedError):
        train(settings, stop_after(4))
    assert as_begun(settings) is settings


def test_a_run_that_has_saved_nothing_yet_may_start_anew_with_any_settings(make_settings: MakeSettings) -> None:
    with pytest.raises(StoppedError):
        train(make_settings(), stop_after(2))
    result = train(make_settings("deal.weight=0", "epochs=1"))
    assert (result.steps, result.resumed_from) == (3, 0)
    with pytest.raises(ConfigError, match="unknown backbone"):
        train(make_settings("model.arguments.backbone=resnet81", output="typo"))
    assert train(make_settings("epochs=1", output="typo")).steps == 3


def test_a_dataset_that_grew_is_told(make_settings: MakeSettings, tiny_dataset: Path, tmp_path: Path) -> None:
    path = tmp_path / "growing"
    shutil.copytree(tiny_dataset, path)
    settings = make_settings(f"data.path={path}", "data.validation_fraction=0")
    with pytest.raises(StoppedError):
        train(settings, stop_after(5))
    shutil.copytree(path / "recordings" / "tiny", path / "recordings" / "more")
    with pytest.raises(ConfigError, match="a run of 12 steps, this one has 24: has the dataset changed"):
        train(settings)


def test_an_output_that_cannot_be_made_is_told(make_settings: MakeSettings, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cannot be written.*choose another output"):
        train(make_settings(output="file/run"))


@hypothesis_settings(max_examples=20)
@given(lines=st.lists(st.text(max_size=30)))
def test_a_damaged_history_never_stops_a_run(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> None:
    folder = tmp_path_factory.mktemp("history")
    good = ['{"step": 1, "loss": 0.5}', '{"step": 3, "loss": 0.25}']
    (folder / "history.jsonl").write_text("\n".join([good[0], *lines, good[1]]), encoding="utf-8")
    with RunLog(folder, resumed_from=2) as log:
        log.write(3, 1, {"loss": 0.125})
    assert [line for line in history(folder) if "loss" in line] == [
        {"step": 1, "loss": 0.5},
        {"step": 3, "epoch": 1, "loss": 0.125},
    ]
