"""OpenMP of PyTorch is found without loading PyTorch, and loaded on ARM alone."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

from deal_ros.node import torch_libraries
from deal_ros.node.torch_libraries import openmp_libraries, reserve_for_torch


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []
    monkeypatch.setattr(ctypes, "CDLL", found.append)
    monkeypatch.setattr(torch_libraries, "openmp_libraries", lambda: ["first", "second"])
    return found


@pytest.mark.parametrize(("machine", "expected"), [("aarch64", ["first", "second"]), ("x86_64", [])])
def test_it_is_loaded_where_storage_is_scarce(
    monkeypatch: pytest.MonkeyPatch, loaded: list[str], machine: str, expected: list[str]
) -> None:
    monkeypatch.setattr(torch_libraries.platform, "machine", lambda: machine)
    reserve_for_torch()
    assert loaded == expected


def test_a_library_that_does_not_load_is_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_libraries.platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(torch_libraries, "openmp_libraries", lambda: ["/no/such/library.so"])
    reserve_for_torch()


def test_the_libraries_beside_torch_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (
        "torch/__init__.py",
        "torch/lib/libgomp-1.so.1",
        "torch.libs/libgomp-2.so.1.0.0",
        "torch.libs/libz.so",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    look = "from deal_ros.node.torch_libraries import openmp_libraries; import sys; print(*openmp_libraries())"
    code = f"{look}; assert 'torch' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [
        str(tmp_path / "torch" / "lib" / "libgomp-1.so.1"),
        str(tmp_path / "torch.libs" / "libgomp-2.so.1.0.0"),
        "libgomp.so.1",
    ]


def test_without_torch_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_libraries, "is_installed", lambda name: False)
    assert openmp_libraries() == []
