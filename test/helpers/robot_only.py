"""Run the segmentation node where nothing is installed but what a robot needs: `python -m robot_only`.

Every other package of this environment is hidden from the import system, so that importing it fails as on a robot
without it.
"""

from __future__ import annotations

import runpy
import sys
from importlib.metadata import packages_distributions
from typing import Any

ON_ROBOT = {"lazy-loader", "numpy", "onnxruntime", "opencv-python-headless", "packaging"}
"""Distributions of a robot, beside those of ROS."""
FOR_ROS = {"pyyaml", "setuptools", "typing-extensions"}
"""What rclpy imports, and setuptools, which runs code when Python starts."""
OURS = "deal-ros"


def hide_the_rest(also: frozenset[str] = frozenset()) -> frozenset[str]:
    """Hide every package that no robot has, and return the names of the modules; `also` is not hidden."""
    hidden = frozenset(
        module
        for module, distributions in packages_distributions().items()
        if not any(_is_on_robot(name, also) for name in distributions) and module not in sys.stdlib_module_names
    )
    loaded = {name.partition(".")[0] for name in sys.modules}
    assert not loaded & hidden, f"loaded before it was hidden: {loaded & hidden}"
    sys.meta_path.insert(0, _Hidden(hidden))
    return hidden


class _Hidden:
    def __init__(self, modules: frozenset[str]) -> None:
        self._modules = modules

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.partition(".")[0] in self._modules:
            raise ModuleNotFoundError(f"No module named '{name}' (hidden)", name=name)


def _is_on_robot(distribution: str, also: frozenset[str]) -> bool:
    name = distribution.lower().replace("_", "-")
    return name in ON_ROBOT | FOR_ROS | {OURS} | also or name.startswith("ros-")


if __name__ == "__main__":
    hide_the_rest()
    runpy.run_module("deal_ros.segmentation.main", run_name="__main__", alter_sys=True)
