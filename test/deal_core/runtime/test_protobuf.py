"""Fields of stored messages, against the protobuf library."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deal_core.runtime.protobuf import ProtobufError, fields, integer, messages, text

onnx = pytest.importorskip("onnx", reason="onnx is not installed (extra export)")


@given(
    version=st.integers(0, 2**63 - 1),
    producer=st.text(max_size=50),
    entries=st.lists(st.tuples(st.text(max_size=20), st.text(max_size=300)), max_size=5),
    raw=st.binary(max_size=300),
    number=st.floats(width=32, allow_nan=False),
)
def test_what_protobuf_writes_is_read(
    version: int, producer: str, entries: list[tuple[str, str]], raw: bytes, number: float
) -> None:
    model = onnx.ModelProto(ir_version=version, producer_name=producer)
    for key, value in entries:
        model.metadata_props.add(key=key, value=value)
    tensor = model.graph.initializer.add(raw_data=raw)
    tensor.dims.extend([3, version])
    model.graph.node.add(attribute=[onnx.AttributeProto(f=number)])
    view = memoryview(model.SerializeToString())
    assert integer(view, 1) == version and text(view, 2) == producer
    assert [(text(found, 1), text(found, 2)) for found in messages(view, 14)] == entries
    (graph,) = messages(view, 7)
    assert bytes(graph) == model.graph.SerializeToString(deterministic=True)
    assert [bytes(value) for found, value in fields(messages(graph, 5)[0]) if found == 9] == [raw]


@given(st.binary(max_size=60))
def test_bytes_that_are_no_message_are_refused_and_never_end_in_another_error(data: bytes) -> None:
    try:
        found = list(fields(memoryview(data)))
    except ProtobufError:
        with pytest.raises(Exception, match=r"."):  # protobuf refuses them, too
            onnx.ModelProto.FromString(data)
    else:
        assert all(number >= 1 for number, _ in found)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x0a\x05mug", "has 5 bytes, but 3 are left"),
        (b"\x0d\x01", "has 4 bytes, but 1 are left"),
        (b"\x0a", "no end of the integer"),
        (b"\x08" + b"\xff" * 10, "no end of the integer"),
        (b"\x0b", "unknown kind 3"),
        (b"\x02\x00", "field number 0"),
    ],
)
def test_the_reason_is_told(data: bytes, reason: str) -> None:
    with pytest.raises(ProtobufError, match=reason):
        list(fields(memoryview(data)))


def test_a_field_of_another_type_is_told() -> None:
    number, words = memoryview(b"\x08\x01"), memoryview(b"\x0a\x02\xff\xfe")
    with pytest.raises(ProtobufError, match="field 1 is a number"):
        text(number, 1)
    with pytest.raises(ProtobufError, match="field 1 is no number"):
        integer(words, 1)
    with pytest.raises(ProtobufError, match="field 1 is no text"):
        text(words, 1)
    assert text(number, 2) == "" and integer(words, 2) == 0
