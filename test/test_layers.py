"""The order of the rooms: an upper one imports lower ones, never the reverse, and no imports go round in a circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.paths import PROJECT

# From the top down; rooms of one floor do not import each other. A room is a folder or a module of this name.
FLOORS = (
    ("deal_ros.__main__",),  # starts the command line from beside itself
    ("training.cli",),
    ("training.commands",),
    ("training.support", "training"),
    ("deal_ros.parameter_docs", "deal_ros.security_policies"),
    ("deal_ros.replay",),
    ("deal_ros.segmentation", "deal_ros.recorder", "deal_ros.synthetic_camera"),
    ("deal_ros.diagnostics",),
    ("deal_ros.input",),
    ("deal_ros.node",),
    ("deal_ros",),
    ("deal_core.experiments",),
    ("deal_core.report",),
    ("deal_core.trainer",),
    ("deal_core.evaluation", "deal_core.quality", "deal_core.audit", "deal_core.label_tools"),
    ("deal_core.tagging", "deal_core.views"),
    ("deal_core.taps",),
    ("deal_core.runtime", "deal_core.recorder"),
    ("deal_core.masks", "deal_core.web"),
    ("deal_core.regions",),
    ("deal_core.features",),
    ("deal_core.models", "deal_core.dataset", "deal_core.synthetic", "deal_core.drawing"),
    ("deal_core.losses", "deal_core.recording"),
    ("deal_core.surfaces",),
    ("deal_core.structures", "deal_core.settings_file", "deal_core.devices"),
    ("deal_core.text_formats", "deal_core.array_files"),
    ("deal_core.files",),
    ("deal_core.limits", "deal_core.ownership"),
    ("deal_core.errors", "deal_core.isolated_python"),
    ("deal_core",),
)
FLAT = {
    *("structures", "settings_file", "devices", "errors", "files", "isolated_python", "drawing"),
    *("limits", "text_formats", "array_files", "ownership"),
}
NEVER_IN_DEAL_ROS = (
    *("trainer", "evaluation", "quality", "report", "experiments", "masks", "regions", "features"),
    *("taps", "views", "audit", "label_tools"),
)


def modules() -> dict[str, Path]:
    """Return every module of the product by its dotted name."""
    found = {}
    for top in ("deal_core", "deal_ros", "training"):
        for path in sorted((PROJECT / top).rglob("*.py")):
            name = ".".join(path.relative_to(PROJECT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


MODULES = modules()


def imports(name: str) -> Iterator[str]:
    """Yield the modules of the product that a module imports, inside functions and for type checkers, too."""
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            are_modules = [module for module in inside if module in MODULES]
            yield from are_modules or [node.module]


def floor(module: str) -> tuple[int, str]:
    """Return the index of a module's floor, counted from the top, and its room."""
    found = [
        (room, index) for index, rooms in enumerate(FLOORS) for room in rooms if f"{module}.".startswith(f"{room}.")
    ]
    room, index = max(found, key=lambda entry: len(entry[0]))
    return index, room


def climbs(name: str) -> set[str]:
    """Return the imports of a module that do not go down."""
    index, room = floor(name)
    found = set()
    for imported in imports(name):
        below, other = floor(imported)
        if other != room and below <= index:
            found.add(f"{name} -> {imported}")
    return found


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_down(name: str) -> None:
    assert climbs(name) == set()


def test_flat_modules_of_deal_core_are_listed() -> None:
    flat = {path.stem for path in (PROJECT / "deal_core").glob("*.py")} - {"__init__"}
    assert flat == FLAT


def test_deal_ros_does_not_import_what_trains_or_scores() -> None:
    found = {
        f"{name} -> {imported}"
        for name in MODULES
        if name.startswith("deal_ros")
        for imported in imports(name)
        if imported.startswith(tuple(f"deal_core.{room}" for room in NEVER_IN_DEAL_ROS))
    }
    assert found == set()


def test_no_circle_of_modules_or_of_rooms() -> None:
    of_modules = {name: set(imports(name)) - {name} for name in MODULES}
    of_rooms: dict[str, set[str]] = {}
    for name, found in of_modules.items():
        of_rooms.setdefault(folder(name), set()).update({folder(other) for other in found} - {folder(name)})
    assert circle(of_modules) == [] == circle(of_rooms)


def folder(name: str) -> str:
    """Return the folder of a module below the top folders; a module that lies in one of these stands for itself."""
    parent = name.rpartition(".")[0]
    is_package = MODULES[name].name == "__init__.py"
    return name if is_package or "." not in parent else parent


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Return the nodes of one circle of a graph; [] if there is none."""
    done: set[str] = set()

    def walk(node: str, path: list[str]) -> list[str]:
        if node in path:
            return path[path.index(node) :]
        if node in done:
            return []
        for other in sorted(graph.get(node, ())):
            if found := walk(other, [*path, node]):
                return found
        done.add(node)
        return []

    return next((found for node in sorted(graph) if (found := walk(node, []))), [])
