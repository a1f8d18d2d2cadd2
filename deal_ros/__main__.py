"""Start the `deal` command of this installation: `deal`, or `python -m deal_ros`.

The import path may hold another package called `training`: in the working folder, or through PYTHONPATH in a ROS
workspace. So `training` is loaded from the folder that holds this package, not from where Python finds the name first.
"""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path


def main() -> None:
    """Run the command line, `training.cli`."""
    _import_training_from(Path(__file__).parents[1])
    from training.cli import main as run

    run()


def _import_training_from(folder: Path) -> None:
    spec = PathFinder.find_spec("training", [str(folder)])
    assert spec is not None and spec.loader is not None, f"{folder} holds deal_ros but not training"
    sys.modules["training"] = package = module_from_spec(spec)
    spec.loader.exec_module(package)


if __name__ == "__main__":
    main()
