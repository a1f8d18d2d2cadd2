"""The benchmark on real frames makes scores of the drawn masks, and tells how far each refinement brings them."""

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers.scripts import load_script

REAL = load_script("real_refinement")


def write_frame(folder: Path) -> None:
    """Write two boxes on a table that is seen from above, and a third that is no class, as YCB-Video has them."""
    folder.mkdir()
    label = np.zeros((60, 80), np.uint8)
    for value, rows, columns in ((8, (10, 30), (8, 28)), (14, (30, 50), (50, 70)), (3, (5, 15), (55, 70))):
        label[slice(*rows), slice(*columns)] = value
    depth = np.where(label > 0, 6000, 8000).astype(np.uint16)
    depth[0, :4] = 0
    color = np.repeat(np.where(label > 0, 200, 60).astype(np.uint8)[..., None], 3, 2)
    for kind, pixels in (("color", color), ("depth", depth), ("label", label)):
        cv2.imwrite(str(folder / f"000001-{kind}.png"), pixels)


def test_depth_gives_a_blob_the_shape_of_its_thing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_frame(tmp_path / "data")
    monkeypatch.setattr(sys, "argv", ["real_refinement.py", "--frames", str(tmp_path), "--seeds", "1", "2"])
    monkeypatch.setattr(REAL, "METHODS", {name: REAL.METHODS[name] for name in ("none", "regions")})
    REAL.main()
    said = capsys.readouterr().out
    rows = {line.split("|")[1].strip(): line.split("|")[2] for line in said.splitlines() if "±" in line}
    none, regions = (float(rows[name].split("±")[0]) for name in ("none", "regions"))
    assert regions > none + 10
    assert "found in 1 of 1 frames; they cover" in said and "0.0% of the things" in said


def test_blobs_stand_on_their_thing_and_absent_classes_score_nowhere(tmp_path: Path) -> None:
    write_frame(tmp_path / "data")
    (frame,) = REAL.read_frames(tmp_path)
    assert set(np.unique(frame.truth)) == {0, 1, 2, 255} and set(np.unique(frame.depth)) == {
        np.float32(0),
        np.float32(0.6),
        np.float32(0.8),
    }
    for seed in range(20):
        scores = REAL.blobs(frame.truth, 0.5, np.random.default_rng(seed))
        for index in (0, 1):
            assert frame.truth.flat[scores[index].argmax()] == index + 1 and scores[index].max() == 1
        assert not scores[2].any()


def test_a_folder_without_frames_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["real_refinement.py", "--frames", str(tmp_path)])
    with pytest.raises(SystemExit, match="no \\*-color images"):
        REAL.main()
