"""Real frames come from any folder of the layout of YCB-Video; what is wrong with another is said."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers.real_frames import LayoutError, read_real_frames


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three frames of another sequence, size and list of classes; the last one shows a class less."""
    (tmp_path / "image_sets").mkdir()
    (tmp_path / "image_sets" / "classes.txt").write_text("hammer\nsaw\n")
    sequence = tmp_path / "data" / "workshop"
    sequence.mkdir(parents=True)
    for index in (7, 8, 12):
        color = np.full((24, 40, 3), (1, 2, 3), np.uint8)  # blue, green, red
        label = np.zeros((24, 40), np.uint8)
        label[2:8, 2:8], label[10:20, 10:20] = 1, 2 if index < 12 else 0
        images = {"color": color, "depth": np.full((24, 40), 8057, np.uint16), "label": label}
        for kind, image in images.items():
            cv2.imwrite(str(sequence / f"{index:06d}-{kind}.png"), image)
    return tmp_path


def test_another_scene_is_read(folder: Path) -> None:
    found = read_real_frames(folder)
    assert found.classes.names == ("hammer", "saw") and len(found.pairs) == len(found.masks) == 3
    assert found.visible(0) == ["hammer", "saw"] and found.visible(2) == ["hammer"]
    assert found.pairs[0].color[0, 0].tolist() == [3, 2, 1] and (found.pairs[0].depth_mm == 805).all()
    assert (found.camera.width, found.camera.height) == (40, 24)
    assert found.camera.fx == pytest.approx(1066.778 / 16) and found.camera.fy == pytest.approx(1067.487 / 20)


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("image_sets/classes.txt", r"classes\.txt: expected a file with the name of a class in each line"),
        ("data/workshop/000008-depth.png", r"000008-depth\.png: expected an image, found none"),
        ("data/workshop/000008-label.png", r"000008-label\.png: expected an image, found none"),
    ],
)
def test_a_missing_file_is_named(folder: Path, missing: str, said: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(LayoutError, match=said):
        read_real_frames(folder)


def test_a_folder_without_enough_frames_is_named(folder: Path) -> None:
    for name in ("000007", "000008"):
        (folder / "data" / "workshop" / f"{name}-color.png").unlink()
    with pytest.raises(LayoutError, match=r"workshop: expected 2 or more NNNNNN-color\.png, found 1"):
        read_real_frames(folder)
    (folder / "data" / "workshop" / "000012-color.png").unlink()
    with pytest.raises(LayoutError, match=r"expected frames data/\*/NNNNNN-color\.png, found none"):
        read_real_frames(folder)


@pytest.mark.parametrize(
    ("kind", "image", "said"),
    [
        ("depth", np.zeros((24, 40), np.uint8), "expected 1 channels of uint16, found 1 of uint8"),
        ("label", np.zeros((24, 40, 3), np.uint8), "expected 1 channels of uint8, found 3 of uint8"),
        ("label", np.full((24, 40), 3, np.uint8), r"000008-label\.png: expected ids up to 2, the classes, found 3"),
        ("depth", np.ones((12, 20), np.uint16), "of one size, found 40x24, 20x12, 40x24"),
    ],
)
def test_a_wrong_image_is_named(folder: Path, kind: str, image: np.ndarray, said: str) -> None:
    cv2.imwrite(str(folder / "data" / "workshop" / f"000008-{kind}.png"), image)
    with pytest.raises(LayoutError, match=said):
        read_real_frames(folder)
