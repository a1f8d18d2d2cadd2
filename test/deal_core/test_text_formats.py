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

from deal_core import text_formats
from deal_core.text_formats import FormatError, LargeJson, compose_yaml, parse_json, parse_yaml, read_json

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


@pytest.mark.parametrize("unit", ["[],", "{},", '{"a":1},', "1,"])
def test_json_that_would_fill_the_memory_is_refused_before_it_is_read(
    unit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEAL_LIMITS", "json_memory=100000")
    with pytest.raises(FormatError, match=r"bytes of memory .* limit of 100000"):
        parse_json(f"[{unit * 3000}0]")
    assert len(parse_json(f"[{unit * 200}0]")) == 201


def test_letters_of_texts_are_no_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run lengths of COCO are texts with brackets and colons."""
    texts = ["[[[[" * 100, ":" * 3000, '\\"[[' * 90, "\\\\", "{" * 300]
    monkeypatch.setenv("DEAL_LIMITS", "json_memory=100000")
    assert parse_json(json.dumps(texts)) == texts
    with pytest.raises(FormatError, match="over the limit of 100"):
        parse_json(json.dumps(texts)[:-1] + "," + "[" * 101 + "]" * 101 + "]")


# --- large files


def large(file: Path) -> tuple[dict[str, list[Any]], set[str]]:
    """Entries of the lists a and b, each read a second time by its place."""
    read: dict[str, list[Any]] = {"a": [], "b": []}
    spans = []
    entries = {name: lambda value, span, name=name: (read[name].append(value), spans.append(span)) for name in read}
    opened, found = LargeJson.read_lists(file, entries, "text_bytes")
    again = [opened.value(span) for span in spans]
    assert sorted(map(json.dumps, again)) == sorted(json.dumps(v) for values in read.values() for v in values)
    return read, found


@given(
    content=st.dictionaries(st.sampled_from("abcé"), st.lists(VALUES, max_size=5) | VALUES, max_size=4),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    indent=st.sampled_from([None, 1]),
    ascii_only=st.booleans(),
)
def test_lists_of_a_large_file_are_read_entry_by_entry(
    tmp_path_factory: pytest.TempPathFactory, content: Any, encoding: str, indent: int | None, ascii_only: bool
) -> None:
    file = tmp_path_factory.mktemp("large") / "a.json"
    file.write_text(json.dumps(content, indent=indent, ensure_ascii=ascii_only), encoding=encoding)
    expected = {name: content.get(name) for name in ("a", "b")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_formats, "_PIECE", 7)
        patch.setattr(text_formats, "_TOLD_EVERY", 50)
        read, found = large(file)
    assert read == {name: value if isinstance(value, list) else [] for name, value in expected.items()}
    assert found == {name for name, value in expected.items() if isinstance(value, list)}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": [1, 2', "no JSON"),
        ('{"a": [1 2]}', "expected ',', found '2"),
        ('{"a": [1], "a": [2]}', "occurs once, found 'a'"),
        ("{1: [1]}", "occurs once, found 1"),
        ('{"a" [1]}', "expected ':'"),
        ('{"a": [1]} x', "something follows"),
        ("[1] x", "something follows"),
        ('{"a": [' + "[" * 101 + "]" * 101 + "]}", "over the limit of 100"),
        ('{"a": [' + "[" * 5000 + "]}", "no JSON|nested too deep|over the limit of 100"),
        ('{"a": [' + "9" * 400 + "]}", "400 digits"),
        ('{"a": [1e999]}', "finite number"),
        ('{"a": ["\\ud800"]}', "half a character"),
        ("", "no JSON"),
    ],
)
def test_a_large_file_that_cannot_be_used_is_refused(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "a.json"
    file.write_text(text)
    with pytest.raises(FormatError, match=said):
        large(file)


def test_one_value_of_a_large_file_may_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.json"
    monkeypatch.setattr(text_formats, "_PIECE", 100)
    monkeypatch.setenv("DEAL_LIMITS", "json_memory=50000")
    file.write_text('{"a": [' + "[0],\n" * 3000 + "0]}")
    assert len(large(file)[0]["a"]) == 3001
    for text in ('{"a": [[' + "{}," * 3000 + "0]]}", '{"x": [' + "{}," * 3000 + "0]}", "[" + "{}," * 3000 + "0]"):
        file.write_text(text)
        with pytest.raises(FormatError, match="limit of 50000"):
            large(file)
    monkeypatch.setenv("DEAL_LIMITS", "text_bytes=90000")
    with pytest.raises(OSError, match="over the limit of 90000"):
        file.write_text('{"a": ["' + "x" * 90000 + '"]}')
        large(file)


def test_a_large_file_that_changes_is_not_read_on(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text('{"a": [{"x": 1}]}')
    spans: list[Any] = []
    opened, _ = LargeJson.read_lists(file, {"a": lambda _, span: spans.append(span)}, "text_bytes")
    assert opened.value(spans[0]) == {"x": 1}
    file.write_text('{"b": 3, "a": [{"x": 1}]}')
    with pytest.raises(OSError, match="has changed"):
        opened.value(spans[0])
