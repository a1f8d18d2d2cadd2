"""What a person showed reaches the loss, a drawn mask never does, and without taps nothing changes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.training_runs import MakeSettings, assert_same_run, history

from deal_core.dataset.dataset import Dataset
from deal_core.dataset.taps import Tap, marks_to_json
from deal_core.structures import UNLABELLED
from deal_core.taps.masks import TapMasks
from deal_core.trainer.cam_training import train
from deal_core.trainer.tapped_frames import TappedFrames


@pytest.fixture
def tapped(tiny_dataset: Path, tmp_path: Path) -> Path:
    """The dataset with a tap on a thing of each class in every second frame; the drawn masks say where."""
    path = tmp_path / "tapped"
    shutil.copytree(tiny_dataset, path)
    dataset = Dataset.open(path)
    marks = {}
    for number, frame in enumerate(dataset.frames[::2]):
        sample = dataset.load(2 * number)
        assert sample.mask is not None
        taps = []
        for label in np.unique(sample.mask[(sample.mask > 0) & (sample.mask < UNLABELLED)]):
            rows, columns = np.nonzero(sample.mask == label)
            middle = len(rows) // 2
            taps.append(Tap(dataset.classes.names[label - 1], int(columns[middle]), int(rows[middle])))
        marks[frame.stamp_ns] = tuple(taps)
    (file,) = path.glob("recordings/*/frames.jsonl")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for line in lines:
        line.update(marks_to_json(marks.get(line["stamp_ns"], ())))
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_masks_are_what_was_shown_and_not_what_was_drawn(tapped: Path) -> None:
    dataset = Dataset.open(tapped)
    taps = TapMasks(dataset)
    frames = TappedFrames(dataset, taps)
    assert len(frames) == len(dataset)
    for number in (0, 1, 0):
        found, known = frames.load(number).mask, taps.of(dataset.frames[number].key)
        assert found is not None
        if number:
            assert known is None and (found == UNLABELLED).all()
        else:
            assert known is not None and np.array_equal(found, known.mask) and (found > 0).any()
    nothing = TappedFrames(dataset, None).load(0).mask
    assert nothing is not None and (nothing == UNLABELLED).all()


def test_taps_train_the_cam(make_settings: MakeSettings, tapped: Path) -> None:
    settings = make_settings(f"data.path={tapped}", "deal.weight=0")
    train(settings)
    lines = [line for line in history(settings.output) if "loss_tags" in line]
    assert all(0 <= line["loss_taps"] <= 1 for line in lines) and any(line["loss_taps"] > 0 for line in lines)
    assert lines[0]["loss"] == pytest.approx(lines[0]["loss_tags"] + lines[0]["loss_taps"], rel=1e-5)


def test_weight_0_is_the_training_without_taps(make_settings: MakeSettings, tapped: Path, tiny_dataset: Path) -> None:
    off = make_settings(f"data.path={tapped}", "taps.weight=0", output="off")
    plain = make_settings(output="plain")
    train(off)
    train(plain)
    assert_same_run(off.output, plain.output)
    assert not any("loss_taps" in line for line in history(off.output))


def test_frames_that_are_rehearsed_have_no_seeds(make_settings: MakeSettings, tapped: Path, tiny_dataset: Path) -> None:
    """Their drawn masks are there, and must not be read."""
    first = make_settings(output="first")
    train(first)
    again = make_settings(
        *(f"data.path={tapped}", f"data.rehearse=[{tiny_dataset}, 0.5]", f"init_from={first.output}/model.safetensors"),
        *("model=null", "epochs=1"),
        output="again",
    )
    train(again)
    assert all("loss_taps" in line for line in history(again.output) if "loss_tags" in line)
