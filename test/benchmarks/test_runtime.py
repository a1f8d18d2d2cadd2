"""The benchmark of the run time measures the rows that can be, in turns, and says why not of those that cannot."""

import json
import sys
from pathlib import Path

import pytest
import torch
from helpers.scripts import load_script

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (extra export)")
pytest.importorskip("onnx", reason="onnx is not installed (extra export)")

RUNTIME = load_script("runtime")


@pytest.mark.slow
def test_rows_are_measured_beside_the_first_or_skipped_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--quick", "--threads", "1", "--cases", "segmenter_int8", "cuda_float16", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["runtime.py", *arguments])
    RUNTIME.main()
    record = json.loads((tmp_path / "runtime.json").read_text(encoding="utf-8"))
    rows = {row["name"]: row for row in record["rows"]}
    assert list(rows) == ["cam_torch", "segmenter_int8", "cuda_float16"]
    assert rows["segmenter_int8"]["precision"] == "int8" and set(rows["cam_torch"]["times_faster"]) == {1.0}
    for row in (rows["cam_torch"], rows["segmenter_int8"]):
        assert len(row["total_ms"]) == 2 and row["peak_mib"] >= row["start_mib"] > 0
        for total, forward in zip(row["total_ms"], row["forward_ms"], strict=True):
            assert 0 < forward < total
    if not torch.cuda.is_available():
        assert rows["cuda_float16"]["skipped"] == "there is no GPU that PyTorch can use"
    printed = capsys.readouterr().out
    assert all(row["title"] in printed for row in rows.values())
    assert printed.strip() == (tmp_path / "runtime.md").read_text(encoding="utf-8").strip()
