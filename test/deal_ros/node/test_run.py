"""What ends a node, and what does not."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")

from deal_ros.node.run import run

pytestmark = pytest.mark.ros


def test_a_callback_that_fails_does_not_end_the_node(
    new_domain: Callable[[], int], monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    from rclpy.node import Node

    class Fragile(Node):
        calls = 0

        def __init__(self) -> None:
            super().__init__("fragile")

        def start(self) -> None:
            self.create_timer(0.001, self.fail)

        def fail(self) -> None:
            self.calls += 1
            raise [ValueError, RuntimeError, MemoryError, RecursionError][self.calls % 4]("a hostile message")

        def is_finished(self) -> bool:
            return self.calls >= 100

        def finish(self) -> int:
            return 0

    module = ModuleType("fragile")
    module.Fragile = Fragile  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fragile", module)
    monkeypatch.setenv("ROS_DOMAIN_ID", str(new_domain()))
    assert run("fragile", "Fragile", ["fragile"]) == 0
    said = capfd.readouterr().err
    assert "a callback failed; the node goes on" in said and "a hostile message" in said
    assert said.count("Traceback") < 10, "they would fill the disk"
