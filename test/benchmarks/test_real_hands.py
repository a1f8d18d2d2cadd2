"""The benchmark on hands reads the clips of the repository and scores masks against the drawn hands."""

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers.scripts import load_script

from deal_core.dataset.dataset import Dataset

HANDS = load_script("real_hands")


def write_clip(root: Path, gesture: str, number: str) -> None:
    """Write a clip of two frames: a hand in front of a wall, drawn with a soft border in the first frame."""
    clip = root / "dataset" / "person" / gesture / number
    for name in ("rgb", "depth_raw", "annotation"):
        (clip / name).mkdir(parents=True)
    drawn = np.zeros((48, 64), np.uint8)
    drawn[10:30, 20:40] = 40
    drawn[11:29, 21:39] = 250
    depth = np.where(drawn > 127, 600, 1500).astype(np.uint16)
    for frame in ("frame_001", "frame_002"):
        cv2.imwrite(str(clip / "rgb" / f"{frame}.png"), np.full((48, 64, 3), 90, np.uint8))
        np.save(clip / "depth_raw" / f"{frame}.npy", depth)
    cv2.imwrite(str(clip / "annotation" / "frame_001.png"), drawn)


def test_clips_become_recordings_with_a_segment_for_each_gesture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for gesture in ("G01_call", "G10_three"):
        for number in ("clip01", "clip02"):
            write_clip(tmp_path / "hands", gesture, number)
    out = tmp_path / "dataset"
    monkeypatch.setattr(
        sys, "argv", ["real_hands.py", str(tmp_path / "hands"), "--out", str(out), "--size", "64", "48"]
    )
    HANDS.main()
    said = capsys.readouterr().out
    assert "| all background | 0.0 |" in said and "| nearest blob in depth | 100.0 |" in said

    dataset = Dataset.open(out)
    assert dataset.classes.names == ("call", "three") and dataset.recordings == ["clip01", "clip02"]
    assert len({(frame.recording, frame.segment) for frame in dataset.frames}) == 4
    samples = [dataset.load(i) for i in range(len(dataset))]
    drawn = [sample for sample in samples if sample.mask is not None]
    assert len(samples) == 8 and len(drawn) == 4
    for sample in drawn:
        present = int(np.flatnonzero(sample.tags)[0]) + 1
        assert sample.tags.sum() == 1 and np.unique(sample.mask).tolist() == [0, present]
        assert (sample.mask > 0).sum() == 18 * 18  # the soft border is no hand
        assert sample.depth.min() == pytest.approx(0.6)


def test_a_folder_without_clips_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no folder like dataset/PERSON/G01_call/clip01"):
        HANDS.write_dataset(tmp_path, tmp_path / "out")
