"""The scripts in `benchmarks/` as modules."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

from helpers.paths import PROJECT

FOLDER = PROJECT / "benchmarks"


def load_script(name: str) -> ModuleType:
    """Return the script `benchmarks/<name>.py`, run as a module."""
    spec = importlib.util.spec_from_file_location(f"{name}_benchmark", FOLDER / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    if str(FOLDER) not in sys.path:  # where a script that is started finds what it shares with others
        sys.path.append(str(FOLDER))
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
