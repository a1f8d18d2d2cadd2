"""The executable `recorder_node`: errors and exit codes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")

from deal_ros.recorder.main import main

pytestmark = pytest.mark.ros


@pytest.mark.parametrize(
    ("parameters", "code", "said"),
    [
        ({"output": ""}, 2, "parameter 'output': expected the folder of the recording, found nothing"),
        ({"classes": ""}, 2, "parameter 'classes': expected all classes that tags may name, found nothing"),
        ({"classes": "mug,mug"}, 2, "parameter 'classes': class names must be unique"),
        ({"classes": "mug,ignore"}, 2, "class 'ignore' cannot be set while recording"),
        ({"classes": "nowhere/dataset.yaml"}, 1, "nowhere is not a dataset"),
        ({"tags": "mugg"}, 2, "Did you mean 'mug'"),
        ({"marker": "compleet"}, 2, "Did you mean 'complete'"),
        ({"output": "."}, 1, ". exists already: choose another name"),
        ({"output": "x" * 300}, 2, "parameter 'output': expected a path of at most 1000 bytes"),
        ({"output": "/"}, 2, "parameter 'output': expected a path below a folder"),
        ({"page": True, "page_host": "no.such.invalid"}, 2, "page_host no.such.invalid: expected an address"),
    ],
)
def test_wrong_parameters_are_refused_at_once(
    new_domain: Callable[[], int],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    parameters: dict[str, Any],
    code: int,
    said: str,
) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", str(new_domain()))
    given = {"output": "somewhere", "classes": "mug,drill", **parameters}
    words = [word for name, value in given.items() for word in ("-p", f"{name}:={value!r}")]
    assert main(["recorder_node", "--ros-args", *words]) == code
    assert said in capfd.readouterr().err
