"""YOLO's segments: names, shares of the image, confidences and boxes."""

from __future__ import annotations

from pathlib import Path

import pytest

from deal_core.dataset.dataset import Dataset
from deal_core.errors import DatasetError
from deal_core.label_tools.yolo_folder import open_yolo

SIZE = (36, 48)


def write(folder: Path, lines: str, names: str = "names: [mug, jar]", file: str = "labels/hall/1000000000.txt") -> Path:
    place = folder / file
    place.parent.mkdir(parents=True)
    place.write_text(lines)
    (folder / "data.yaml").write_text(names)
    return folder


@pytest.mark.parametrize("names", ["names: [mug, jar]", "names: {0: mug, 1: jar}", "nc: 2\nnames:\n  0: mug\n  1: jar"])
@pytest.mark.parametrize("behind", ["", " 0.93"])
@pytest.mark.parametrize("file", ["labels/hall/1000000000.txt", "hall/1000000000.txt"])
def test_corners_are_shares_of_the_image(names: str, behind: str, file: str, dataset: Dataset, tmp_path: Path) -> None:
    corners = " ".join(f"{x / 48:.9f} {y / 36:.9f}" for x, y in ((6, 3), (30, 3), (30, 12), (6, 12)))
    source = open_yolo(write(tmp_path, f"0 {corners}{behind}\n\n1 0.2 0.1 0.3 0.1 0.3 0.2\n", names, file))
    image = "hall/1000000000"
    layers = source.layers(image, dataset.frames[0], SIZE)
    assert source.images == [image] and [layer.label for layer in layers] == ["mug", "jar"]
    assert layers[0].place == (slice(3, 12), slice(6, 30)) and layers[0].part.all()


def test_boxes_are_refused_or_drawn_and_an_empty_file_is_an_empty_mask(dataset: Dataset, tmp_path: Path) -> None:
    folder = write(tmp_path, "1 0.5 0.5 0.25 0.5\n0 0.5 0.5 0.25 0.5 0.9")
    (folder / "labels" / "shop").mkdir()
    (folder / "labels" / "shop" / "1000000000.txt").write_text("")
    with pytest.raises(DatasetError, match=r"1000000000.txt: 'jar' in image 'hall/1000000000' is a box"):
        open_yolo(folder)
    source = open_yolo(folder, "draw")
    layers = source.layers("hall/1000000000", dataset.frames[0], SIZE)
    assert [layer.place for layer in layers] == [(slice(9, 27), slice(18, 30))] * 2
    assert source.labels("shop/1000000000") == set()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("2 0 0 1 0 1 1", r"1000000000.txt line 1: expected `class x y x y …` with a class of data.yaml \(0 to 1\)"),
        ("mug 0 0 1 0 1 1", "found 'mug 0 0"),
        ("0 0 x 1 0 1 1", "expected `class x y"),
        ("0 0 0 1", "shares of the image"),
        ("0 0 0 1 0 1 inf", "shares of the image"),
        ("0 0 0 640 0 640 480", "shares of the image"),
    ],
)
def test_a_wrong_line_is_refused(line: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=reason):
        open_yolo(write(tmp_path, line))


@pytest.mark.parametrize("names", ["nc: 2", "names: 3", "names: []", "names: {a: mug}", "- a", "names: [1]"])
def test_a_file_without_names_is_refused(names: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"data.yaml: expected `names: "):
        open_yolo(write(tmp_path, "", names))


def test_a_folder_without_segments_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"expected data.yaml"):
        open_yolo(tmp_path)
    (tmp_path / "data.yaml").write_text("names: [mug]")
    with pytest.raises(DatasetError, match="expected text files with segments"):
        open_yolo(tmp_path)
