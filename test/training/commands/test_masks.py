"""`deal masks`: what comes in and goes out, in words and as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from helpers.teacher_frames import drawn, make_frames, masks_in

from deal_core.dataset.dataset import Dataset

Deal = Callable[..., Any]


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return make_frames(tmp_path / "kitchen")


@pytest.fixture
def teacher(dataset: Dataset, tmp_path: Path) -> Path:
    """A folder of PNGs with the drawn masks, and a picture of something else."""
    for key, mask in drawn(dataset).items():
        file = tmp_path / "teacher" / f"{key}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), mask)
    cv2.imwrite(str(tmp_path / "teacher" / "stranger.png"), np.zeros((5, 5), np.uint8))
    return tmp_path / "teacher"


def test_masks_go_in_out_and_in_again(dataset: Dataset, teacher: Path, tmp_path: Path, deal: Deal) -> None:
    done = deal("masks", "import", dataset.path, teacher, "--out", tmp_path / "masks")
    assert done.returncode == 0 and "6 masks" in done.stderr
    assert "1 images are no frame of the dataset: stranger.png" in done.stderr
    assert "vetoed" in done.stdout and "mug" in done.stdout
    out = tmp_path / "out"
    done = deal("masks", "export", dataset.path, tmp_path / "masks", "--format", "cvat", "--worst", 2, "--out", out)
    assert done.returncode == 0 and f"{out / 'annotations.xml'}: 2 masks for cvat" in done.stderr
    assert len(list((out / "images").rglob("*.png"))) == 2
    done = deal("masks", "import", dataset.path, out / "annotations.xml", "--out", tmp_path / "back", "--json")
    told = json.loads(done.stdout)
    assert (told["frames"], told["without"], told["masks"]) == (2, 4, str(tmp_path / "back"))
    truth = drawn(dataset)
    found = masks_in(tmp_path / "back", dataset)
    assert len(found) == 2 and all(np.array_equal(found[key], truth[key]) for key in found)


def test_corrected_masks_and_those_of_the_teacher_are_compared(
    dataset: Dataset, teacher: Path, tmp_path: Path, deal: Deal
) -> None:
    for name in ("ours", "theirs"):
        assert deal("masks", "import", dataset.path, teacher, "--out", tmp_path / name).returncode == 0
    page = tmp_path / "report.html"
    folders = tmp_path / "ours", tmp_path / "theirs"
    done = deal("report", *folders, "--dataset", dataset.path, "--out", page, "--pictures", 1, "--json")
    assert done.returncode == 0 and [run["name"] for run in json.loads(done.stdout)["runs"]] == ["ours", "theirs"]
    assert "imported" in page.read_text()


def test_a_flagged_frame_and_an_unknown_name_are_told(
    dataset: Dataset, teacher: Path, tmp_path: Path, deal: Deal
) -> None:
    first = dataset.frames[0].key
    cv2.imwrite(str(teacher / f"{first}.png"), np.full((36, 48), 9, np.uint8))
    command = ("masks", "import", dataset.path, teacher, "--out", tmp_path / "masks")
    done = deal(*command)
    assert done.returncode == 1 and "no classes of the dataset: 9 (in 1 masks)" in done.stderr
    done = deal(*command, "--others", "background")
    assert done.returncode == 0 and f"1 lack a class that is tagged: {first}" in done.stderr
    assert deal(*command, "--map", "9=unlabelled").returncode == 1  # the folder is there
    done = deal(*command, "--map", "9=unlabelled", "--missing", "skip", "--overwrite")
    assert done.returncode == 0 and "1 were skipped" in done.stderr


@pytest.mark.parametrize("options", [("--format", "voc"), ("--boxes", "some"), ("--map", "cup")])
def test_wrong_use_exits_with_2(
    options: tuple[str, ...], dataset: Dataset, teacher: Path, tmp_path: Path, deal: Deal
) -> None:
    done = deal("masks", "import", dataset.path, teacher, "--out", tmp_path / "masks", *options)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert not (tmp_path / "masks").exists()
