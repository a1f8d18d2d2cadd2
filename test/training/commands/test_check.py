"""`deal check` of recordings, datasets and published layouts by what it prints and its exit code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.judged_scenes import write_masks
from helpers.layouts import HEIGHT, WIDTH, make_coco, make_hope, make_voc

from deal_core.dataset.dataset import Dataset


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


def test_check_extract_check(deal: Callable[..., Any], kitchen: Path, tmp_path: Path) -> None:
    done = deal("check", kitchen, "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 0 and report["kind"] == "recording" and report["frames"] == 5
    assert report["tags"]["mug"] == {"present": 5, "absent": 0, "unknown": 0}

    done = deal("extract", kitchen, "--out", tmp_path / "dataset")
    assert done.returncode == 0 and "5 frames from 5 pairs" in done.stderr.replace("\n", " ")
    done = deal("extract", kitchen, "--out", tmp_path / "dataset", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["recordings"][0]["was_there"] is True

    done = deal("check", tmp_path / "dataset", "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 0 and report["kind"] == "dataset" and report["recordings"][0]["frames"] == 5
    done = deal("check", tmp_path / "dataset")
    assert done.returncode == 0 and "kitchen" in done.stdout and "never tagged present" in done.stderr


def test_repair_makes_a_recording_that_checks_and_extracts(
    deal: Callable[..., Any], kitchen: Path, tmp_path: Path
) -> None:
    whole = deal("check", kitchen, "--repair", "--json")
    assert whole.returncode == 0 and json.loads(whole.stdout)["repair"]["out"] is None
    assert "is complete, 12 messages: nothing to repair" in deal("check", kitchen, "--repair").stderr
    assert [p.name for p in tmp_path.iterdir()] == ["kitchen"]

    file = kitchen / "kitchen.mcap"
    file.write_bytes(file.read_bytes()[:2500])
    (kitchen / "metadata.yaml").unlink()
    assert "--repair" in deal("check", kitchen).stderr
    done = deal("check", kitchen, "--repair", "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 0 and report["kind"] == "recording" and report["errors"] == []
    repaired = tmp_path / "kitchen_repaired"
    assert report["path"] == report["repair"]["out"] == str(repaired)
    assert report["repair"]["path"] == str(kitchen) and report["repair"]["lost_messages"] == 1
    assert report["pairs"] >= 1 and report["topics"] == report["repair"]["messages"]
    assert any("truncated or unreadable from byte" in problem for problem in report["repair"]["problems"])

    assert deal("check", repaired).returncode == 0
    done = deal("extract", repaired, "--out", tmp_path / "dataset", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["recordings"][0]["report"]["pairs"] == report["pairs"]

    done = deal("check", kitchen, "--repair")
    assert done.returncode == 1 and "exists already" in done.stderr and "--out" in done.stderr
    done = deal("check", kitchen, "--repair", "--out", tmp_path / "again")
    assert done.returncode == 0 and f"{report['pairs']} complete pairs" in done.stderr
    assert "lost: 1 messages" in done.stderr and str(tmp_path / "again") in done.stderr
    assert deal("check", tmp_path / "again").returncode == 0


def test_what_cannot_be_repaired(deal: Callable[..., Any], kitchen: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.mcap").write_bytes(b"\x89MCAP0\r\n")
    done = deal("check", tmp_path / "broken.mcap", "--repair")
    assert done.returncode == 1 and "nothing can be saved" in done.stderr and "Traceback" not in done.stderr
    assert deal("extract", kitchen, "--out", tmp_path / "dataset").returncode == 0
    for arguments, said in (
        ((kitchen, "--out", tmp_path / "x"), "needs --repair"),
        ((tmp_path / "dataset", "--repair"), "is a dataset"),
        ((tmp_path, "--as", "voc", "--repair"), "is a dataset"),
        ((kitchen, "--repair", "--depth", tmp_path), "--depth"),
    ):
        done = deal("check", *arguments)
        assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr
    assert {p.name for p in tmp_path.iterdir()} == {"kitchen", "broken.mcap", "dataset"}


def test_a_recording_that_does_not_exist_is_one_sentence(deal: Callable[..., Any], tmp_path: Path) -> None:
    done = deal("check", tmp_path / "no")
    assert done.returncode == 1 and "does not exist" in done.stderr and "Traceback" not in done.stderr


def test_quality_of_masks_by_exit_code_and_json(deal: Callable[..., Any], tiny_dataset: Path, tmp_path: Path) -> None:
    dataset = Dataset.open(tiny_dataset)
    drawn = write_masks(tmp_path / "drawn", dataset, len(dataset))
    done = deal("check", tiny_dataset, "--quality", drawn, "--json")
    told = json.loads(done.stdout)
    assert done.returncode == 0 and told["kind"] == "quality" and told["grade"] in ("good", "doubtful")
    assert told["frames"] == 12 and 0 < told["score"] <= 1
    assert [one["name"] for one in told["classes"]] == list(dataset.classes.names)
    assert told["figures"]["masks"]["empty"] == 0 and "training" not in told["figures"]

    empty = write_masks(tmp_path / "empty", dataset, len(dataset), np.zeros_like)
    done = deal("check", tiny_dataset, "--quality", empty, "--json")
    told = json.loads(done.stdout)
    assert done.returncode == 1 and told["grade"] == "bad" and told["score"] == 0
    assert told["figures"]["masks"]["outline"] is None, "nan is null in JSON"
    done = deal("check", tiny_dataset, "--quality", empty)
    words = " ".join(done.stderr.split())
    assert done.returncode == 1 and "100 % of the tagged frames have an empty mask" in words and "deal regions" in words
    assert "bad" in done.stdout and all(name in done.stdout for name in dataset.classes.names)


def test_quality_names_what_it_cannot_judge(deal: Callable[..., Any], tiny_dataset: Path, tmp_path: Path) -> None:
    done = deal("check", tiny_dataset, "--quality", tmp_path)
    assert done.returncode == 1 and "holds no cams.json" in done.stderr
    done = deal("check", tmp_path, "--quality", tmp_path)
    assert done.returncode == 2 and "is not one" in done.stderr
    done = deal("check", tiny_dataset, "--model", tmp_path / "model.safetensors")
    assert done.returncode == 2 and "needs --quality" in done.stderr


def test_options_that_say_how_to_read_a_recording(
    deal: Callable[..., Any], new_bag: Callable[[], Any], tiny_dataset: Path, tmp_path: Path
) -> None:
    bag = new_bag()
    for stamp in range(100, 900, 100):
        depth = np.random.default_rng(stamp).integers(500, 6000, (48, 64)).astype(np.float32)  # millimetres
        bag.image("/camera/color/image_raw", stamp, bag.color_of(stamp, (48, 64)), "rgb8")
        bag.image("/camera/depth/image_raw", stamp, depth, "32FC1", frame_id="depth_optical")
    path = bag.save(tmp_path / "kitchen")
    done = deal("check", path)
    assert done.returncode == 1 and "--aligned" in done.stderr
    done = deal("check", path, "--aligned")
    assert done.returncode == 1 and "--depth-unit mm" in done.stderr
    done = deal("check", path, "--aligned", "--depth-unit", "mm", "--max-depth", "4", "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 0 and report["frames"] == 8 and 0.5 < report["valid_depth"] < 0.8
    assert deal("check", path, "--depth-unit", "inch").returncode == 2
    done = deal("check", tiny_dataset, "--depth-unit", "m")
    assert done.returncode == 2 and "is a dataset, whose depth was read already" in done.stderr
