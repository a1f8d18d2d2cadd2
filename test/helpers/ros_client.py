"""Whoever talks to a segmentation node from outside: services, parameters, diagnostics, labels."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

NODE = "/deal_segmentation"


class Client:
    """A node with a context and an executor of its own, which waits up to `wait_s` for whatever it waits for.

    Args:
        domain: of ROS.
        name: of the node.
        target: full name of the node it talks to.
    """

    wait_s = 400.0  # a node imports for long where several processes share few cores

    def __init__(self, domain: int, name: str, target: str = NODE) -> None:
        import rclpy
        from diagnostic_msgs.msg import DiagnosticArray
        from rclpy.context import Context
        from rclpy.executors import SingleThreadedExecutor

        from deal_ros.segmentation.labels import subscribe_labels

        self.target = target
        self.context = Context()
        rclpy.init(args=[], context=self.context, domain_id=domain)
        self.node = rclpy.create_node(name, context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.labels: dict[int, str] = {}
        self.values: dict[str, str] = {}
        self.statuses: dict[str, tuple[int, str]] = {}
        self.said: list[str] = []
        self._stamp_ns = 0
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._take_diagnostics, 20)
        subscribe_labels(self.node, target, self._take_labels)

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()
        self.context.shutdown()

    def wait(self, is_true: Callable[[], Any], what: str) -> None:
        end = time.monotonic() + self.wait_s
        while not is_true():
            assert time.monotonic() < end, f"waited in vain for: {what}; diagnostics: {self.statuses} {self.values}"
            self.executor.spin_once(timeout_sec=0.05)

    def call(self, kind: Any, service: str, request: Any = None, node: str = "") -> Any:
        """Return the answer of a service."""
        client = self.node.create_client(kind, f"{node or self.target}/{service}")
        self.wait(client.service_is_ready, service)
        answer = client.call_async(request or kind.Request())
        self.wait(answer.done, f"an answer of {service}")
        self.node.destroy_client(client)
        return answer.result()

    def set(self, node: str = "", **parameters: Any) -> str:
        """Set parameters and return why that was refused; empty where it was not."""
        from rcl_interfaces.srv import SetParameters
        from rclpy.parameter import Parameter

        wanted = [Parameter(name, value=value).to_parameter_msg() for name, value in parameters.items()]
        results = self.call(SetParameters, "set_parameters", SetParameters.Request(parameters=wanted), node).results
        return " ".join(result.reason for result in results if not result.successful)

    def state(self) -> str:
        """Return what `~/get_state` tells."""
        from lifecycle_msgs.srv import GetState

        return str(self.call(GetState, "get_state").current_state.label)

    def change_state(self, transition: str) -> str:
        """Ask for a transition by its name, as in "configure", and return the state afterwards."""
        from lifecycle_msgs.msg import Transition
        from lifecycle_msgs.srv import ChangeState

        self.call(ChangeState, "change_state", ChangeState.Request(transition=Transition(label=transition)))
        return self.state()

    def fresh_values(self) -> dict[str, str]:
        """Wait for diagnostics with a stamp after this call; older ones may still be in the queue."""
        begun_ns = time.time_ns()
        self.wait(lambda: self._stamp_ns >= begun_ns, "diagnostics")
        return self.values

    def wait_said(self, sentence: str) -> None:
        """Wait until a diagnostic message holds a sentence, and forget what was said so far."""
        self.wait(lambda: any(sentence in message for message in self.said), sentence)
        self.said.clear()

    def _take_diagnostics(self, message: Any) -> None:
        mine = [s for s in message.status if s.name.startswith(f"{self.target[1:]}: ")]
        if not mine:
            return
        self._stamp_ns = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
        self.values = {entry.key: entry.value for status in mine for entry in status.values}
        self.statuses = {s.name.split(": ", 1)[1]: (s.level[0], s.message) for s in mine}
        self.said += [s.message for s in mine]

    def _take_labels(self, names: dict[int, str]) -> None:
        self.labels = names
