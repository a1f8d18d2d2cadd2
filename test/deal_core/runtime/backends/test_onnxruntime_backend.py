"""ONNX Runtime writes no identifier of the device below the user's home, and takes no more memory than its limit."""

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


LAYERS = """
import sys
import numpy as np
from onnx import TensorProto, helper, numpy_helper
from deal_core.errors import BackendError
from deal_core.runtime.backends.onnxruntime_backend import OnnxRuntimeBackend

def value(name):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 4, 4])

kind, size = sys.argv[1], int(sys.argv[2])
node, weights = helper.make_node, {}
largest = [node("ReduceMax", ["large"], ["most"], keepdims=0), node("Add", ["image", "most"], ["scores"])]
if kind == "constant":
    weights["shape"] = np.array([size, size])
    nodes = [node("ConstantOfShape", ["shape"], ["large"])]
elif kind == "product":
    weights["rows"], weights["columns"] = np.ones((size, 1), np.float32), np.ones((1, size), np.float32)
    nodes = [node("Mul", ["rows", "columns"], ["large"])]
else:
    weights["scales"] = np.array([1, 1, size / 4, size / 4], np.float32)
    nodes = [node("Resize", ["image", "", "scales"], ["large"])]
graph = helper.make_graph(nodes + largest, "bomb", [value("image")], [value("scores")],
                          [numpy_helper.from_array(array, name) for name, array in weights.items()])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()
try:
    print(OnnxRuntimeBackend(model)(np.ones((1, 3, 4, 4), np.float32)).shape)
except BackendError as error:
    print(error)
"""


@pytest.mark.parametrize("kind", ["constant", "product", "resize"])
def test_layers_that_are_larger_than_the_limit_are_refused(kind: str) -> None:
    def said(size: int) -> str:
        environment = {**os.environ, "DEAL_LIMITS": f"onnx_memory={2**26}"}
        words = [sys.executable, "-c", LAYERS, kind, str(size)]
        return subprocess.run(words, env=environment, check=True, capture_output=True, text=True).stdout

    assert said(64) == "(3, 4, 4)\n"
    assert f"bytes of memory are over the limit of {2**26}" in said(6000)
