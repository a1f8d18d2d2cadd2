"""What a node reads, with rcl, of launch arguments and a parameter file."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.paths import CONFIG
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")

from deal_core.errors import UsageError
from deal_ros.node.launch_parameters import ParameterFile, as_yaml, boolean, typed_values, write_parameters

SCHEMA = CONFIG / "schema" / "recorder.schema.json"
# What PyYAML writes without quotes as text, or rcl reads as something else than text.
CONFUSING = [
    "1e3",
    "1E-5",
    "y",
    "N",
    "no",
    "on",
    "true",
    "Off",
    "nan",
    "inf",
    "infinity",
    "089",
    "0x1p3",
    "0x1F",
    "1_0",
]
CONFUSING += ["~", "null", ".5", "1.", "-1", "+2", "1:30", "2026-11-28", "- a", "a: b", "a # b", "'", '"', "\\n", "{x}"]
CONFUSING += [
    "1_0",
    "!!int 5",
    "&a",
    "*a",
    "%",
    "@",
    "`",
    "é",
    "名",
    "🙂",
    " padded ",
    "a\nb",
    "\t",
    "$(x)",
    "\x7f\x01",
]
DECLARED_BY_RCLPY = {"use_sim_time", "start_type_description_service"}
NODE = "/robot1/deal_recorder"


@pytest.fixture(scope="module")
def read(new_domain: Callable[[], int]) -> Callable[..., dict[str, Any]]:
    """Return what rcl tells a node of parameter files."""
    import rclpy
    from rclpy.context import Context

    def parameters(*paths: Path, words: Sequence[str] = ()) -> dict[str, Any]:
        context = Context()
        words = [*(word for path in paths for word in ("--params-file", str(path))), *words]
        rclpy.init(args=["--ros-args", "-r", "__ns:=/robot1", *words], context=context, domain_id=domain)
        node = rclpy.create_node(
            "deal_recorder",
            context=context,
            enable_rosout=False,
            start_parameter_services=False,
            allow_undeclared_parameters=True,
            automatically_declare_parameters_from_overrides=True,
        )
        try:
            found = {name: parameter.value for name, parameter in node.get_parameters_by_prefix("").items()}
            return {name: value for name, value in found.items() if name not in DECLARED_BY_RCLPY}
        finally:
            node.destroy_node()
            context.shutdown()

    domain = new_domain()
    return parameters


def write(folder: Path, content: Any) -> Path:
    path = folder / "mine.yaml"
    path.write_text(content if isinstance(content, str) else yaml.dump(content, allow_unicode=True), encoding="utf-8")
    return path


def section(**parameters: Any) -> dict[str, Any]:
    return {"ros__parameters": parameters}


@pytest.mark.parametrize("spellings", [("true", "false"), ("True", "FALSE"), ("1", "0"), ("yes", "No"), ("on", "off")])
def test_true_and_false_have_the_spellings_of_launch_and_yaml(spellings: tuple[str, str]) -> None:
    assert [boolean("page", word) for word in spellings] == [True, False]


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("page", "false", False),
        ("page_port", "8000", 8000),
        ("rate_hz", "7", 7.0),
        ("output", "1e3", "1e3"),
        ("marker", "partial", "partial"),
        ("classes", "no", "no"),
        ("classes", "mug,drill", "mug,drill"),
        ("classes", "[mug, 'drill', no, 1e3]", ["mug", "drill", "no", "1e3"]),
        ("classes", "[]", ""),
        ("classes", "[mug", "[mug"),
        ("classes", "[a, [b]]", "[a, [b]]"),
    ],
)
def test_an_argument_has_the_type_of_its_parameter(name: str, text: str, value: Any) -> None:
    (found,) = typed_values({name: text, "tags": ""}, SCHEMA).values()
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("page", "maybe", "'page': expected true or false, found 'maybe'"),
        ("page_port", "8e3", "'page_port': expected an integer from 0 to 65535, found '8e3'"),
        ("page_port", "65536", "'page_port': expected an integer from 0 to 65535, found '65536'"),
        ("rate_hz", "fast", "'rate_hz': expected a number from 0 to 1000, found 'fast'"),
        ("rate_hz", "nan", "'rate_hz': expected a number from 0 to 1000, found 'nan'"),
        ("planned_minutes", "-1", "'planned_minutes': expected a number of at least 0, found '-1'"),
        ("marker", "compleet", "'marker': expected one of complete, partial, ignore, found 'compleet'.* 'complete'?"),
    ],
)
def test_a_wrong_argument_is_named(name: str, text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        typed_values({name: text}, SCHEMA)


def test_text_is_text_for_the_node(read: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    texts = {f"text_{number}": text for number, text in enumerate(CONFUSING)}
    lists = {f"list_{number}": [text, "mug"] for number, text in enumerate(CONFUSING)}
    mine = ParameterFile.read(write(tmp_path, {"/**": section(text_0="mine", keyboard=False)}))
    assert read(*write_parameters(tmp_path, mine, {**texts, **lists})) == {**texts, **lists, "keyboard": False}


# Jazzy's rcl reads a number below the smallest normal one as text.
FLOATS = st.floats(allow_nan=False, allow_subnormal=False)
NUMBERS = st.one_of(st.booleans(), st.integers(-(2**63), 2**63 - 1), FLOATS)
VALUES = st.one_of(NUMBERS, st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
WRITTEN = st.one_of(NUMBERS, st.text(st.characters(min_codepoint=32, max_codepoint=126)))


@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mine=st.lists(WRITTEN, min_size=20, max_size=20), given=st.lists(VALUES, min_size=10, max_size=10))
def test_any_value_reaches_the_node(
    mine: list[Any], given: list[Any], read: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    of_file = {f"p{number}": value for number, value in enumerate(mine)}
    of_arguments = {f"p{number}": value for number, value in enumerate(given)}
    path = tmp_path / "mine.yaml"
    path.write_text(json.dumps({"/**": section(**of_file)}, ensure_ascii=False), encoding="utf-8")
    found = read(*write_parameters(tmp_path, ParameterFile.read(path), of_arguments))
    assert found == {**of_file, **of_arguments}
    assert {name: type(value) for name, value in found.items()} == {
        name: type(value) for name, value in {**of_file, **of_arguments}.items()
    }


def test_a_value_is_the_same_on_the_command_line(read: Callable[..., dict[str, Any]]) -> None:
    values = {f"p{number}": value for number, value in enumerate([*CONFUSING, True, False, 7, 1e-7, 2.0, ["no", "1"]])}
    words = [word for name, value in values.items() for word in ("-p", f"{name}:={as_yaml(value)}")]
    assert read(words=words) == values


# Each writes parameters of the recorder in another way; rcl has a way of its own to choose among them.
FILES = {
    "all nodes": {"/**": section(tags="mine", page=False, keyboard=False)},
    "this node": {NODE: section(tags="mine", page=False, keyboard=False)},
    "both": {"/**": section(tags="mine", page=False), NODE: section(tags="too", keyboard=False)},
    "both, this node first": {NODE: section(tags="mine", keyboard=False), "/**": section(tags="too", page=False)},
    "nested": {"robot1": {"deal_recorder": section(tags="mine", page=False, keyboard=False)}},
    "any namespace": {"/**/deal_recorder": section(tags="mine", page=False, keyboard=False)},
    "one namespace": {"/*/deal_recorder": section(tags="mine", page=False, keyboard=False)},
    "other types": {"/**": section(tags=True, page="no", keyboard=False)},
    "a list": {"/**": section(tags=["mug", "drill"], page=1, keyboard=False)},
    "other nodes": {"camera": section(tags="theirs", x=1), "/**": section(keyboard=False)},
}


@pytest.mark.parametrize("name", FILES)
def test_an_argument_overrides_the_file_whatever_its_order(
    name: str, read: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    mine = ParameterFile.read(write(tmp_path, yaml.dump(FILES[name], sort_keys=False)))
    assert read(*write_parameters(tmp_path, mine, {"tags": "mug", "page": True})) == {
        "tags": "mug",
        "page": True,
        "keyboard": False,
    }


def test_what_arguments_do_not_set_stays_as_it_was_written(read: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    text = """
# of a user
/**:
  ros__parameters:
    note: "1e3"
    output: '089'
    marker: !!str 5
    rate_hz: 1e1
    max_loss: .5
    queue_mib: 0x10
    keyboard: off
    tags: [a, "1", 'y']
    page: false
    nested: {deep: {er: yes}}
"""
    path = write(tmp_path, text)
    before = read(path)
    after = read(*write_parameters(tmp_path, ParameterFile.read(path), {"page": True}))
    assert after == {**before, "page": True}
    assert (before["note"], before["output"], before["marker"]) == ("1e3", "089", "5")
    assert (before["rate_hz"], before["queue_mib"], before["keyboard"]) == (10.0, 16, False)
    assert before["tags"] == ["a", "1", "y"] and before["nested.deep.er"] is True


def test_without_arguments_the_file_is_passed_as_it_is(tmp_path: Path) -> None:
    path = write(tmp_path, {"/**": section(tags="mug")})
    assert write_parameters(tmp_path, ParameterFile.read(path), {}) == [path]


@pytest.mark.parametrize("content", ["", "{}", "# nothing\n", "/**:\n  ros__parameters: {}\n"])
def test_a_file_may_be_empty(content: str, read: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    mine = ParameterFile.read(write(tmp_path, content))
    assert read(*write_parameters(tmp_path, mine, {"tags": "mug"})) == {"tags": "mug"}


@pytest.mark.parametrize("content", ["a: [", "\tx", b"\xff\xfe\xff", "--- 1\n--- 2\n"])
def test_a_file_that_is_not_yaml_is_named(content: str | bytes, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UsageError, match=r"'params_file': expected a parameter file, found .*mine\.yaml: "):
        ParameterFile.read(path)


def test_the_values_of_a_parameter_in_a_file(tmp_path: Path) -> None:
    content = {"/**": section(model="a"), "robot1": {"x": section(model="b", tags=["c"])}}
    mine = ParameterFile.read(write(tmp_path, content))
    assert sorted(mine.values("model")) == ["a", "b"] and mine.values("tags") == ["c"] and mine.values("device") == []
