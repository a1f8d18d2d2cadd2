"""`deal check` of official layouts by what it prints and its exit code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.layouts import HEIGHT, WIDTH, make_coco, make_hope, make_voc


@pytest.mark.parametrize(
    ("make", "arguments", "frames"),
    [
        (make_voc, ("--as", "voc", "--split", "val"), 2),
        (make_coco, ("--as", "coco", "--class-ids", "category"), 4),
        (make_hope, ("--as", "hope", "--split", "onboarding_static:up"), 6),
    ],
)
def test_a_sound_dataset_of_each_layout(
    deal: Callable[..., Any], tmp_path: Path, make: Callable[[Path], Path], arguments: tuple[str, ...], frames: int
) -> None:
    done = deal("check", make(tmp_path / "data"), *arguments, "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 0 and report["kind"] == "dataset" and report["errors"] == []
    assert sum(recording["frames"] for recording in report["recordings"]) == frames
    assert report["depth_kind"] == ("metric" if make is make_hope else None)


def test_what_is_missing_and_exit_codes(deal: Callable[..., Any], tmp_path: Path) -> None:
    root = make_voc(tmp_path / "voc")
    done = deal("check", root, "--as", "voc")
    assert done.returncode == 0 and "VOC2012" in done.stdout and "longest gap" not in done.stdout
    assert "no image has depth" in done.stderr

    (root / "VOCdevkit" / "VOC2012" / "JPEGImages" / "2007_000001.jpg").unlink()
    done = deal("check", root, "--as", "voc", "--json")
    assert done.returncode == 1 and "lacks 1 of 6 images" in json.loads(done.stdout)["errors"][0]
    assert deal("check", root, "--as", "voc", "--split", "nope").returncode == 1
    for wrong in (("--split", "val"), ("--depth", tmp_path), ("--as", "cityscapes")):
        assert deal("check", root, *wrong).returncode == 2


def test_estimated_depth_is_checked(deal: Callable[..., Any], tmp_path: Path) -> None:
    from deal_core.dataset.depth_maps import DepthMapsWriter

    root = make_voc(tmp_path / "voc")
    writer = DepthMapsWriter(tmp_path / "depth", "inverse", "m")
    for name in ("2007_000005", "2008_000006"):
        writer.write(f"VOC2012/{name}", np.ones((HEIGHT, WIDTH)))
    arguments = ("check", root, "--as", "voc", "--depth", tmp_path / "depth", "--json", "--split")
    done = deal(*arguments, "val")
    assert done.returncode == 0 and json.loads(done.stdout)["depth_kind"] == "inverse"
    done = deal(*arguments, "train")
    assert done.returncode == 1 and "lacks the depth maps of 4 of 4 images" in json.loads(done.stdout)["errors"][0]
