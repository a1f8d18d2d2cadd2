"""The script that attacks the nodes: they bear it, in small."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.scripts import load_script

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")
pytest.importorskip("torch", reason="PyTorch is not installed (extra train)")

pytestmark = [pytest.mark.ros, pytest.mark.slow]

COUNT = 15


def test_nodes_bear_strangers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    script = load_script("strangers")
    monkeypatch.setattr(script, "_NO_TYPE", 0.0)  # it would wait for answers to them
    model = script.make_model(tmp_path / "model.safetensors")
    outcomes, strays = script.attack(tmp_path, model, COUNT)
    assert strays == []
    assert [outcome.node for outcome in outcomes] == ["/deal_segmentation", "/deal_recorder", "/camera/camera"]
    for outcome in outcomes:
        assert outcome.alive and outcome.parameters == outcome.calls == COUNT, outcome
    assert outcomes[0].messages == outcomes[1].messages == COUNT
