"""What a snapshot holds, taken from the node by its service."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")

import yaml
from helpers.node_stand import Stand
from sensor_msgs.msg import Image
from std_srvs.srv import Trigger

from deal_ros.input.conversions import color_to_rgb, image_to_mask
from deal_ros.segmentation.parameters import SegmentationParameters


def test_a_snapshot_holds_the_last_frame_whole(new_stand: Callable[..., Stand], tmp_path: Path) -> None:
    import cv2
    from rclpy.serialization import deserialize_message

    stand = new_stand(snapshot_dir=str(tmp_path / "new"), data_dir=str(tmp_path))
    assert "nothing to save" in stand.call(Trigger, "save_snapshot").message
    stand.activate()
    color, _ = stand.pair()
    stand.color.publish(color)
    mask = image_to_mask(stand.mask_of(color))
    answer = stand.call(Trigger, "save_snapshot")
    assert answer.success, answer.message
    folder = Path(answer.message)
    assert [p.name for p in (tmp_path / "new").iterdir()] == [folder.name]
    assert deserialize_message((folder / "color.cdr").read_bytes(), Image) == color
    np.testing.assert_array_equal(cv2.imread(str(folder / "color.png"))[..., ::-1], color_to_rgb(color))
    np.testing.assert_array_equal(cv2.imread(str(folder / "mask.png"), cv2.IMREAD_UNCHANGED), mask)
    values = yaml.safe_load((folder / "parameters.yaml").read_text())["/**"]["ros__parameters"]
    assert SegmentationParameters(**values) == stand.tested.parameters
    assert "state" in {status["name"] for status in json.loads((folder / "diagnostics.json").read_text())}
    (tmp_path / "file").touch()
    assert stand.set(snapshot_dir=str(tmp_path / "file")) == ""
    assert "parameter 'snapshot_dir': cannot write to" in stand.call(Trigger, "save_snapshot").message


def test_snapshots_cannot_fill_the_disk(new_stand: Callable[..., Stand], tmp_path: Path) -> None:
    stand = new_stand(snapshot_dir=str(tmp_path / "one"), data_dir=str(tmp_path), snapshot_limit=3)
    stand.activate()
    stand.segment()
    assert [stand.call(Trigger, "save_snapshot").success for _ in range(4)] == [True, True, True, False]
    assert stand.set(snapshot_dir=str(tmp_path / "two")) == ""
    answer = stand.call(Trigger, "save_snapshot")
    assert not answer.success and "parameter 'snapshot_limit'" in answer.message, "another folder is no way out"
    assert "fixed" in stand.set(data_dir="/") and "cannot change now" in stand.set(snapshot_limit=1000)
    assert "takes a path below" in stand.set(snapshot_dir="/tmp")
    for folder in (tmp_path / "one").iterdir():
        shutil.rmtree(folder)
    assert stand.call(Trigger, "save_snapshot").success


def test_the_size_of_snapshots_is_limited(new_stand: Callable[..., Stand], tmp_path: Path) -> None:
    stand = new_stand(snapshot_dir=str(tmp_path), snapshot_limit_mib=1)
    stand.activate()
    stand.segment()
    first = stand.call(Trigger, "save_snapshot")
    (Path(first.message) / "color.cdr").write_bytes(bytes(2**20))
    answer = stand.call(Trigger, "save_snapshot")
    assert not answer.success and "has 1 MiB of snapshots, and the limit is 1" in answer.message
