"""The node's parameters: checked values, errors that name them, and the files that set them."""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")

from deal_core.errors import UsageError
from deal_ros.segmentation_parameters import SegmentationParameters

ROOT = Path(__file__).resolve().parents[2]
FIELDS = {field.name: field for field in dataclasses.fields(SegmentationParameters)}


def test_a_model_is_all_that_must_be_set() -> None:
    parameters = SegmentationParameters(model="m.safetensors")
    assert parameters.max_age_ms == 250.0 and parameters.depth_mode == "optional"


def test_an_integer_is_a_number() -> None:
    value = SegmentationParameters(model="m", max_age_ms=100).max_age_ms
    assert value == 100.0 and isinstance(value, float)


def test_off_is_off_although_yaml_takes_it_for_false() -> None:
    assert SegmentationParameters(model="m", depth_mode=False).depth_mode == "off"
    with pytest.raises(UsageError, match="'sync_policy'"):
        SegmentationParameters(model="m", sync_policy=False)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"model": 7}, r"'model': expected text, found 7"),
        ({"model": "m", "depth_mode": "requird"}, r"'depth_mode': .* found 'requird'.* Did you mean 'required'"),
        ({"model": "m", "sync_queue": 0}, r"'sync_queue': expected an integer from 1 to 1000, found 0"),
        ({"model": "m", "sync_queue": 2.0}, r"'sync_queue': expected an integer"),
        ({"model": "m", "sync_queue": True}, r"'sync_queue': expected an integer"),
        ({"model": "m", "max_age_ms": -1.0}, r"'max_age_ms': expected a number of at least 0, found -1.0"),
        ({"model": "m", "max_age_ms": float("nan")}, r"'max_age_ms': expected a number"),
        ({"model": "m", "max_age_ms": "soon"}, r"'max_age_ms': expected a number of at least 0, found 'soon'"),
        ({"model": "m", "color_qos": None}, r"'color_qos': expected one of auto, reliable, best_effort"),
    ],
)
def test_a_wrong_value_is_refused_by_name(values: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        SegmentationParameters(**values)


def test_a_model_must_be_named() -> None:
    with pytest.raises(UsageError, match=r"'model': expected the path of a model file .* found nothing; set it with"):
        SegmentationParameters().check_complete()
    SegmentationParameters(model="m").check_complete()


def test_the_parameter_file_sets_every_parameter_but_the_model_to_its_default() -> None:
    content = yaml.safe_load((ROOT / "config" / "segmentation.param.yaml").read_text())
    values = content["/**"]["ros__parameters"]
    assert values.keys() | {"model"} == FIELDS.keys()
    assert SegmentationParameters(model="m", **values) == SegmentationParameters(model="m")


def launch_file() -> ast.Module:
    return ast.parse((ROOT / "launch" / "segmentation.launch.py").read_text())


def calls(name: str) -> list[ast.Call]:
    return [n for n in ast.walk(launch_file()) if isinstance(n, ast.Call) and getattr(n.func, "id", None) == name]


def texts(node: ast.AST) -> set[str]:
    return {n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)}


def test_the_launch_file_declares_each_argument_it_reads_and_reads_each_it_declares() -> None:
    declared = [call.args[0].value for call in calls("DeclareLaunchArgument")]  # type: ignore[attr-defined]
    read = [call.args[0].value for call in calls("value")] + [  # type: ignore[attr-defined]
        call.args[0].value  # type: ignore[attr-defined]
        for call in calls("LaunchConfiguration")
        if isinstance(call.args[0], ast.Constant)
    ]
    assert len(declared) == len(set(declared))
    assert set(declared) == set(read)
    assert set(declared) == {
        "model",
        "namespace",
        "params_file",
        "device",
        "camera_namespace",
        "camera_name",
        "color_topic",
        "depth_topic",
        "log_level",
        "dds_profile",
    }
    assert all(any(k.arg == "description" for k in call.keywords) for call in calls("DeclareLaunchArgument"))


def test_the_launch_file_sets_parameters_and_topics_that_the_node_has() -> None:
    from deal_ros.session import COLOR_TOPIC, DEPTH_TOPIC

    assigned = {
        key.value
        for node in ast.walk(launch_file())
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == "parameters"
        for key in node.value.keys  # type: ignore[attr-defined]
    } | {
        node.targets[0].slice.value
        for node in ast.walk(launch_file())
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript)
    }
    assert assigned == {"model", "device"} and assigned <= set(FIELDS)
    (node,) = calls("Node")
    keywords = {k.arg: k.value for k in node.keywords}
    assert texts(keywords["package"]) == {"deal_ros"}
    entry_points = (ROOT / "setup.py").read_text()
    assert all(f'"{name} = deal_ros.' in entry_points for name in texts(keywords["executable"]))
    remapped = {pair.elts[0].value for pair in keywords["remappings"].elts}  # type: ignore[attr-defined]
    assert remapped == {COLOR_TOPIC, DEPTH_TOPIC}


def test_the_launch_file_uses_files_that_are_there() -> None:
    named = {t for call in calls("PathJoinSubstitution") for t in texts(call) if "." in t}
    assert named and all((ROOT / "config" / name).is_file() for name in named)
