"""The node's parameters: checked values, errors that name them, and the files that set them."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import yaml
from helpers.paths import PROJECT

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")

from deal_core.errors import UsageError
from deal_ros.segmentation.parameters import OutputOptions, SegmentationParameters

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
        (
            {"model": "m", "temporal_weight": 0.8, "depth_mode": "off"},
            "'temporal_weight', 'depth_mode': .* needs depth",
        ),
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
    content = yaml.safe_load((PROJECT / "config" / "segmentation.param.yaml").read_text())
    values = content["/**"]["ros__parameters"]
    assert values.keys() | {"model"} == FIELDS.keys()
    assert SegmentationParameters(model="m", **values) == SegmentationParameters(model="m")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"overlay_alpha": 1.5}, "'overlay_alpha': expected a number from 0 to 1, found 1.5"),
        ({"points_stride": 0}, "'points_stride': expected an integer from 1 to 64, found 0"),
        ({"jpeg_quality": 101}, "'jpeg_quality': expected an integer from 1 to 100"),
        ({"depth_min_m": 5}, "'depth_min_m', 'depth_max_m': expected depth_min_m below depth_max_m, found 5 m and 5 m"),
    ],
)
def test_options_out_of_range_are_refused_by_name(values: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        OutputOptions(**values)
