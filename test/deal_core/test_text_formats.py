"""JSON and YAML: what is sound is read as the libraries read it, and all else is one kind of error."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from deal_core.text_formats import FormatError, compose_yaml, parse_json, parse_yaml, read_json

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_json_is_read_as_python_reads_it(value: Any) -> None:
    assert parse_json(json.dumps(value)) == value
    assert parse_json(json.dumps(value, ensure_ascii=False)) == value


@given(VALUES)
def test_yaml_is_read_as_pyyaml_reads_it(value: Any) -> None:
    text = yaml.safe_dump(value)
    assert parse_yaml(text) == yaml.safe_load(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 5000, "over the limit of 100"),
        ('{"a":' * 101 + "1" + "}" * 101, "over the limit of 100"),
        ("9" * 400, "400 digits"),
        (str(2**64), "20 digits"),
        ("[1e999]", "finite number"),
        ("[NaN]", "finite number, found NaN"),
        ('{"a": -Infinity}', "finite number"),
        ('"\\ud800"', "half a character"),
        ("{", "no JSON"),
        ("", "no JSON"),
    ],
)
def test_json_that_cannot_be_used_is_refused(text: str, said: str) -> None:
    with pytest.raises(FormatError, match=said) as caught:
        parse_json(text)
    assert len(str(caught.value)) < 400


def test_json_as_deep_as_the_limit_and_odd_but_sound_numbers() -> None:
    assert json.dumps(parse_json("[" * 100 + "]" * 100)) == "[" * 100 + "]" * 100
    assert parse_json("[0.12345678901234567890123, 1e100, 18446744073709551615]")[2] == 2**64 - 1
    assert math.isnan(parse_json("[NaN]", finite=False)[0])
    assert parse_json('"\\ud83d\\ude00 99999999999999999999"') == "\U0001f600 99999999999999999999"


LAUGHS = "a0: &a0 [lol, lol]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
MERGES = "b0: &b0 {x0: 1}\n" + "".join(
    f"b{i}: &b{i} {{<<: [{', '.join([f'*b{i - 1}'] * 9)}], x{i}: 1}}\n" for i in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LAUGHS, "over the limit of 50000"),
        (MERGES, "over the limit of 50000"),
        ("a: &a " + "x" * 400_000 + "\nb: [*a, *a, *a]\n", "over the limit of 1048576"),
        ("a: &a [*a]", "inside of what it stands for"),
        ("a: &a {b: *a}", "inside of what it stands for"),
        ("[" * 3000, "over the limit of 100"),
        ("- " * 3000, "over the limit of 100"),
        ("a: .inf", "finite number"),
        ("a: .nan", "finite number"),
        ("a: " + "9" * 400, "400 digits"),
        ("a: 2001-99-99", "not valid YAML: month"),
        ("a: !!int x", "not valid YAML"),
        ("a: !!bool x", "not valid YAML"),
        ("a: 1\na: 2", "'a' appears twice"),
        ("a: !!python/name:os.system x", "not valid YAML"),
        ("[1, 2", "not valid YAML"),
        ("\x00", "not valid YAML"),
    ],
)
def test_yaml_that_cannot_be_used_is_refused(text: str, said: str) -> None:
    with pytest.raises(FormatError, match=said) as caught:
        parse_yaml(text)
    assert len(str(caught.value)) < 400


def test_aliases_and_merges_of_settings_are_read() -> None:
    text = "base: &base {a: 1, b: [2, 3]}\nother: {<<: *base, a: 4}\nagain: *base\n"
    assert (
        parse_yaml(text)
        == yaml.safe_load(text)
        == {"base": {"a": 1, "b": [2, 3]}, "other": {"a": 4, "b": [2, 3]}, "again": {"a": 1, "b": [2, 3]}}
    )


def test_nodes_are_composed_within_the_same_limits() -> None:
    node = compose_yaml("a: .nan")
    assert isinstance(node, yaml.MappingNode) and node.value[0][1].value == ".nan"
    for text in (LAUGHS, "[" * 3000, "a: &a [*a]", "[1"):
        with pytest.raises(FormatError):
            compose_yaml(text)


def test_a_file_in_another_encoding(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_bytes("[1]".encode("utf-16"))
    assert read_json(file) == [1]
    file.write_bytes(b'["\xff"]')
    with pytest.raises(ValueError):
        read_json(file)
