"""The recorder's parameters, and the files that set and describe them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml
from helpers.paths import PROJECT

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")

from deal_core.errors import UsageError
from deal_ros.recorder.parameters import RecorderParameters

FIELDS = {field.name: field for field in dataclasses.fields(RecorderParameters)}


def test_the_parameter_file_sets_every_parameter_but_output_and_classes_to_its_default() -> None:
    values = yaml.safe_load((PROJECT / "config" / "recorder.param.yaml").read_text())["/**"]["ros__parameters"]
    plain = {name: ",".join(f.default) if isinstance(f.default, tuple) else f.default for name, f in FIELDS.items()}
    assert values == {name: value for name, value in plain.items() if name not in ("output", "classes")}
    RecorderParameters(output="kitchen", classes=("mug",), **values)


def test_classes_come_from_names_or_from_a_dataset(tmp_path: Path) -> None:
    content = {
        "format": "deal-dataset",
        "version": 1,
        "depth_unit": "mm",
        "classes": [{"name": "mug"}, {"name": "drill"}],
    }
    (tmp_path / "dataset.yaml").write_text(yaml.safe_dump(content))
    for given in ("mug, drill", ["mug", "drill"], str(tmp_path / "dataset.yaml")):
        assert RecorderParameters(classes=given).class_list().names == ("mug", "drill")  # type: ignore[arg-type]


def test_the_slop_is_that_of_the_policy() -> None:
    given = {"output": "kitchen", "classes": ("mug",), "sync_slop_ms": 4.0}
    assert RecorderParameters(**given).settings({}).slop_ns == 0
    settings = RecorderParameters(**given, sync_policy="approximate").settings({"device": "D435"})
    assert settings.slop_ns == 4_000_000
    assert settings.session["device"] == "D435" and settings.session["parameters"]["sync_slop_ms"] == 4.0
    with pytest.raises(UsageError, match="'output'"):
        RecorderParameters(classes=("mug",)).settings({})
