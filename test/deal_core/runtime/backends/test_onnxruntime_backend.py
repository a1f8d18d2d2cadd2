"""ONNX Runtime writes no identifier of the device below the user's home."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("onnx", reason="onnx is not installed (extra export)")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (extra export)")

RELU = """
from onnx import TensorProto, helper
value = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [1])
graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", [value("x")], [value("y")])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()
"""
WAYS = {
    "a session": "from deal_core.runtime.backends.onnxruntime_backend import open_session; open_session(model)",
    "the quantisation": "from deal_core.runtime.quantisation import _import_quantization; _import_quantization()",
}


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_no_identifier_is_written(way: str, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "ORT_"))}
    code = f"{RELU}\n{WAYS[way]}"
    subprocess.run([sys.executable, "-c", code], env={**environment, "HOME": str(tmp_path)}, check=True)
    assert [str(path) for path in tmp_path.rglob("*")] == []
