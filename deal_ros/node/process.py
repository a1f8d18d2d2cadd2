"""Start a node as a process, and stop it the way a launch file does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from deal_ros.node.launch_parameters import as_yaml
from deal_ros.node.transport import shared_memory_environment

_STOP_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class NodeProcess:
    """A running node.

    Args:
        process: the process of the node.
        output: file with the node's stdout and stderr.
    """

    process: subprocess.Popen[bytes]
    output: Path

    def is_alive(self) -> bool:
        """Return whether the process still runs."""
        return self.process.poll() is None

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """Send a signal, wait until the process exits, and return its exit code; kill it after 20 s."""
        if self.is_alive():
            self.process.send_signal(number)
        try:
            return self.process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def text(self) -> str:
        """Return what the process has written so far."""
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
    """Run a node within the block, with a Fast DDS profile whose shared memory is large enough for images.

    Args:
        module: module to run, for example "deal_ros.segmentation.main".
        output: file for the node's stdout and stderr.
        parameters: parameters of the node.
        remappings: topic in the graph by topic of the node, for example `{"color/image_raw": "/camera/color"}`.
        environment: variables added to the environment of this process (ROS_DOMAIN_ID, ...).
    """
    command = [sys.executable, "-m", module, "--ros-args"]
    for name, value in (parameters or {}).items():
        command += ["-p", f"{name}:={as_yaml(value)}"]
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
    model: Path, output: Path, *, parameters: Mapping[str, str | int | float], **others: Mapping[str, str]
) -> AbstractContextManager[NodeProcess]:
    """Run the segmentation node with a model file within the block; the other arguments are as for `node_process`."""
    return node_process("deal_ros.segmentation.main", output, parameters={"model": str(model), **parameters}, **others)
