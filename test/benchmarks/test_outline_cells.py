"""The benchmark counts true outline cells, and finds those that a shadow hides once it is filled."""

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers.scripts import load_script

OUTLINES = load_script("outline_cells")


def test_outline_cells_lie_on_both_sides_of_a_border_of_classes() -> None:
    mask = np.zeros((40, 40), np.uint8)
    mask[10:30, 20:30] = 2
    mask[:4] = 255  # unlabelled counts as background
    cells = OUTLINES.outline_cells(mask, (4, 4))
    expected = np.zeros((4, 4), bool)
    expected[0, 2] = expected[3, 2] = expected[1:3, 1:4] = True
    np.testing.assert_array_equal(cells, expected)


def test_a_shadowed_box_is_seen_once_its_shadow_is_filled() -> None:
    mask = np.zeros((120, 160), np.uint8)
    mask[40:80, 60:100] = 1
    depth = np.where(mask > 0, 0.6, 1.2).astype(np.float32)
    depth[40:80, 52:60] = depth[40:80, 100:108] = 0
    frame = OUTLINES.DrawnFrame(depth, mask)
    ignored, filled = (OUTLINES.shares([frame], holes, 120) for holes in ("ignore", "fill"))
    assert ignored[0] > 0.4 and filled[0] == 0
    assert filled[2] > ignored[2] + 0.3
    assert all(0 <= share <= 1 for share in (*ignored, *filled))


def test_it_reads_frames_of_ycb_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    label = np.zeros((60, 80), np.uint8)
    label[10:30, 8:28] = 8
    for kind, pixels in (
        ("color", np.zeros((60, 80, 3), np.uint8)),
        ("depth", np.where(label > 0, 6000, 8000).astype(np.uint16)),
        ("label", label),
    ):
        cv2.imwrite(str(tmp_path / f"000001-{kind}.png"), pixels)
    monkeypatch.setattr(sys, "argv", ["outline_cells.py", "--frames", str(tmp_path), "--height", "60"])
    OUTLINES.main()
    said = capsys.readouterr().out
    assert "1 frames" in said and "| ignore | 0.0 | 100.0 |" in said and "| fill | 0.0 | 100.0 |" in said


def test_a_folder_without_frames_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["outline_cells.py", "--frames", str(tmp_path)])
    with pytest.raises(SystemExit, match="no frames with a drawn mask"):
        OUTLINES.main()
