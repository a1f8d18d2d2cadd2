"""Generate JSON schemas and documentation tables of the nodes' parameters from their dataclasses.

Example:
    python -m deal_ros.parameter_docs      # writes config/schema/*.json and the tables in docs/
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deal_core.files import replacing
from deal_ros.node.parameters import ParameterSet, expectation
from deal_ros.recorder.parameters import RecorderParameters
from deal_ros.segmentation.parameters import SegmentationParameters
from deal_ros.synthetic_camera.parameters import SyntheticCameraParameters

_JSON_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number"}
_TABLE = re.compile(r"(<!-- parameters: begin[^\n]*-->\n).*?(<!-- parameters: end -->)", re.DOTALL)


@dataclass(frozen=True)
class DocumentedNode:
    """A node and the files that describe its parameters.

    Args:
        name: stem of the files `config/<name>.param.yaml` and `config/schema/<name>.schema.json`.
        kind: dataclass of the parameters.
        page: page in `docs/` with the table.
    """

    name: str
    kind: type[ParameterSet]
    page: str


DOCUMENTED = (
    DocumentedNode("segmentation", SegmentationParameters, "reference/segmentation_node.md"),
    DocumentedNode("recorder", RecorderParameters, "reference/recorder_node.md"),
    DocumentedNode("synthetic_camera", SyntheticCameraParameters, "reference/synthetic_camera.md"),
)


def json_schema(node: DocumentedNode) -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of a node's parameter file: any node name, then `ros__parameters`."""
    parameters = {
        "type": "object",
        "properties": {field.name: _property(field) for field in _fields(node.kind)},
        "additionalProperties": False,
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Parameters of deal_ros/{node.name}",
        "type": "object",
        "additionalProperties": {
            "type": "object",
            "properties": {"ros__parameters": parameters},
            "required": ["ros__parameters"],
            "additionalProperties": False,
        },
    }


def parameter_table(kind: type[ParameterSet]) -> str:
    """Return the Markdown table of a node's parameters."""
    rows = ["| parameter | default | takes | live | |", "|---|---|---|---|---|"]
    for field in _fields(kind):
        default = ", ".join(field.default) if isinstance(field.default, tuple) else field.default
        shown = "" if default == "" else f"`{str(default).lower() if isinstance(default, bool) else default}`"
        live = "yes" if field.metadata["live"] else ""
        rows.append(f"| `{field.name}` | {shown} | {expectation(field)} | {live} | {field.metadata['description']} |")
    return "\n".join(rows) + "\n"


def with_table(page: str, kind: type[ParameterSet]) -> str:
    """Return a page of the docs with an updated table between its markers.

    Raises:
        ValueError: the page has no markers.
    """
    if not _TABLE.search(page):
        raise ValueError("expected <!-- parameters: begin --> and <!-- parameters: end --> in the page")
    return _TABLE.sub(lambda found: f"{found[1]}\n{parameter_table(kind)}\n{found[2]}", page)


def schema_text(node: DocumentedNode) -> str:
    """Return the content of the schema file."""
    return json.dumps(json_schema(node), indent=2) + "\n"


def schema_file(root: Path, node: DocumentedNode) -> Path:
    """Return the path of a node's schema in the project."""
    return root / "config" / "schema" / f"{node.name}.schema.json"


def main() -> None:
    """Write the schemas and the tables of the project that contains this module."""
    root = Path(__file__).resolve().parents[1]
    for node in DOCUMENTED:
        page = root / "docs" / node.page
        texts = {
            schema_file(root, node): schema_text(node),
            page: with_table(page.read_text(encoding="utf-8"), node.kind),
        }
        for path, text in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                temporary.write_text(text, encoding="utf-8")


def _fields(kind: type[ParameterSet]) -> list[dataclasses.Field[Any]]:
    """Return the fields of a dataclass, its own before those of its base classes."""
    own = inspect.get_annotations(kind)
    return sorted(dataclasses.fields(kind), key=lambda field: field.name not in own)


def _property(field: dataclasses.Field[Any]) -> dict[str, Any]:
    limits = field.metadata
    found: dict[str, Any] = {"description": limits["description"]}
    if isinstance(field.default, tuple):
        # rcl's parser cannot infer the type of an empty list, so the default is text, split at commas.
        return {**found, "type": ["string", "array"], "items": {"type": "string"}, "default": ",".join(field.default)}
    found |= {"type": _JSON_TYPES[type(field.default)], "default": field.default}
    if limits["choices"]:
        # YAML 1.1, which ROS uses, parses `off` as false.
        off = [False] if "off" in limits["choices"] else []
        found |= {"enum": [*limits["choices"], *off]}
        if off:
            del found["type"]
    for key in ("minimum", "maximum"):
        if math.isfinite(limits[key]):
            found[key] = limits[key]
    return found


if __name__ == "__main__":
    main()
