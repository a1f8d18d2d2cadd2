"""Start a node as a process of its own, and end it the way a launch file would."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from deal_ros.node.transport import shared_memory_environment

_STOP_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class NodeProcess:
    """A node that was started.

    Args:
        process: its process.
        output: the file with what it writes to stdout and stderr.
    """

    process: subprocess.Popen[bytes]
    output: Path

    def is_alive(self) -> bool:
        """Return whether it still runs."""
        return self.process.poll() is None

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """Send a signal, wait for the end (killing it when none comes) and return the exit code."""
        if self.is_alive():
            self.process.send_signal(number)
        try:
            return self.process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def text(self) -> str:
        """Return what it has written so far."""
        return self.output.read_text(encoding="utf-8", errors="replace")


@contextmanager
def node_process(
    module: str,
    output: Path,
    *,
    parameters: Mapping[str, str | int | float] | None = None,
    remappings: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[NodeProcess]:
    """Run a node within the block, with shared memory that images fit into.

    Args:
        module: what to run, as in "deal_ros.segmentation.main".
        output: where its output goes.
        parameters: of the node.
        remappings: topic names of the node to names in the graph, as in `{"color/image_raw": "/camera/color"}`.
        environment: added to this process' (ROS_DOMAIN_ID, ...).
    """
    command = [sys.executable, "-m", module, "--ros-args"]
    for name, value in (parameters or {}).items():
        command += ["-p", f"{name}:={value}"]
    for name, topic in (remappings or {}).items():
        command += ["-r", f"{name}:={topic}"]
    with output.open("wb") as sink:
        process = subprocess.Popen(
            command,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env={**os.environ, **shared_memory_environment(os.environ), **(environment or {})},
        )
        node = NodeProcess(process, output)
        try:
            yield node
        finally:
            node.stop()


def segmentation_process(
    model: Path,
    output: Path,
    *,
    parameters: Mapping[str, str | int | float] | None = None,
    remappings: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> AbstractContextManager[NodeProcess]:
    """Run the segmentation node with a model file within the block; the rest is as for `node_process`."""
    return node_process(
        "deal_ros.segmentation.main",
        output,
        parameters={"model": str(model), **(parameters or {})},
        remappings=remappings,
        environment=environment,
    )
