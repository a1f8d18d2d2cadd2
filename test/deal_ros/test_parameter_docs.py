"""What is shipped and written of the nodes' parameters: files that validate, schemas and tables that are up to date."""

from __future__ import annotations

import dataclasses
from typing import Any

import jsonschema
import pytest
import yaml
from helpers.paths import PROJECT

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")

from deal_ros.parameter_docs import DOCUMENTED, DocumentedNode, json_schema, schema_file, schema_text, with_table

NODES = pytest.mark.parametrize("node", DOCUMENTED, ids=lambda node: node.name)


def shipped(node: DocumentedNode) -> dict[str, Any]:
    content = yaml.safe_load((PROJECT / "config" / f"{node.name}.param.yaml").read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content


def test_every_parameter_file_belongs_to_a_documented_node() -> None:
    assert {path.name for path in (PROJECT / "config").glob("*.param.yaml")} == {
        f"{node.name}.param.yaml" for node in DOCUMENTED
    }


@NODES
def test_the_parameter_file_validates_and_shows_the_defaults(node: DocumentedNode) -> None:
    content = shipped(node)
    jsonschema.Draft202012Validator(json_schema(node)).validate(content)
    (parameters,) = (found["ros__parameters"] for found in content.values())
    defaults = dataclasses.asdict(node.kind())  # type: ignore[call-overload]
    assert dataclasses.asdict(node.kind(**parameters)) == defaults  # type: ignore[call-overload]
    left_out = defaults.keys() - parameters.keys()
    assert all(defaults[name] in ("", ()) for name in left_out), "a launch file sets no other"


@NODES
def test_the_schema_refuses_what_the_node_refuses(node: DocumentedNode) -> None:
    content = shipped(node)
    (name,) = content
    validator = jsonschema.Draft202012Validator(json_schema(node))
    for wrong in ({"no_such_parameter": 1}, {"diagnostics_period_s": -1.0}, {"color_qos": "best"}):
        if wrong.keys() - {"no_such_parameter"} <= {field.name for field in dataclasses.fields(node.kind)}:
            changed = {name: {"ros__parameters": {**content[name]["ros__parameters"], **wrong}}}
            assert not validator.is_valid(changed), wrong


@NODES
def test_schema_and_table_are_those_of_the_code(node: DocumentedNode) -> None:
    page = (PROJECT / "docs" / node.page).read_text(encoding="utf-8")
    assert schema_file(PROJECT, node).read_text(encoding="utf-8") == schema_text(node), "run make params"
    assert page == with_table(page, node.kind), "run make params"
