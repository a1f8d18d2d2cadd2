"""`deal view` from the command line: a file, a page, and what is refused."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Deal = Callable[..., Any]
WAIT_S = 60


def test_without_rerun_it_says_how_to_get_it(deal: Deal, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rerun", None)
    done = deal("view", tiny_dataset)
    assert done.returncode == 2 and "pip install 'deal_ros[view]'" in done.stderr


def test_a_file_has_all_that_was_asked_for(deal: Deal, tiny_dataset: Path, segmenter: Path, tmp_path: Path) -> None:
    pytest.importorskip("rerun", reason="rerun-sdk is not installed (extra view)")
    from rerun.chunk import RrdReader

    masks, out = tmp_path / "student_masks", tmp_path / "new" / "out.rrd"
    model = segmenter / "model.safetensors"
    assert deal("cams", model, tiny_dataset, "--out", masks, "--device", "cpu", "--no-flip").returncode == 0
    told = ("view", tiny_dataset, "--model", segmenter, "--model", model, "--masks", masks, "--cams", masks)
    done = deal(*told, "--frames", "3", "--device", "cpu", "--save", out)
    assert done.returncode == 0 and f"{out}: 3 frames" in done.stderr, done.stderr
    assert [file.name for file in out.parent.iterdir()] == ["out.rrd"]
    entities = {chunk.entity_path.removeprefix("/world/camera/") for chunk in RrdReader(out).stream().to_chunks()}
    assert {
        *("image", "depth", "edges", "truth", "pseudo/student_masks", "prediction/student", "/frame"),
        *("prediction/student\\ \\(2\\)", "cam/student", "cam/student_masks", "/iou/student"),
    } <= entities


def test_what_cannot_be_shown_is_told_in_a_sentence(
    deal: Deal, tiny_dataset: Path, segmenter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("rerun", reason="rerun-sdk is not installed (extra view)")
    out = ("--save", tmp_path / "out.rrd")
    for arguments, code, said in (
        ((tiny_dataset, "--serve", *out), 2, "expected one of the three"),
        ((tiny_dataset, "--masks", segmenter, *out), 2, "found a model there"),
        ((tiny_dataset, "--model", tmp_path, *out), 2, "found a folder without either"),
        ((tiny_dataset, "--recording", "x", *out), 2, "has no recording 'x'"),
        ((tiny_dataset, "--cams", tmp_path, *out), 1, "holds no cams.json"),
    ):
        done = deal("view", *arguments)
        assert done.returncode == code and said in done.stderr, done.stderr
    if sys.platform == "linux":
        monkeypatch.delenv("DISPLAY", raising=False)
        monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
        done = deal("view", tiny_dataset)
        assert done.returncode == 2 and "no display" in done.stderr
    with socket.socket() as busy:
        busy.bind(("", 0))
        busy.listen()
        port = busy.getsockname()[1]
        done = deal("view", tiny_dataset, "--serve", "--port", str(port))
    assert done.returncode == 2 and f"port {port} cannot be used" in done.stderr
    assert not (tmp_path / "out.rrd").exists()


def test_a_failure_leaves_no_file(deal: Deal, tiny_dataset: Path, tmp_path: Path) -> None:
    pytest.importorskip("rerun", reason="rerun-sdk is not installed (extra view)")
    dataset = Path(shutil.copytree(tiny_dataset, tmp_path / "kitchen"))
    last = sorted(dataset.glob("recordings/*/color/*.png"))[-1]
    last.write_bytes(b"no picture")
    done = deal("view", dataset, "--save", tmp_path / "out" / "out.rrd")
    assert done.returncode == 1 and last.name in done.stderr
    assert not (tmp_path / "out").exists()
    done = deal("view", tiny_dataset, "--frames", "1", "--save", last / "out.rrd")
    assert done.returncode == 2 and "out.rrd: cannot be written" in done.stderr


def test_a_disk_that_fills_up_is_told(deal: Deal, tiny_dataset: Path, tmp_path: Path) -> None:
    pytest.importorskip("rerun", reason="rerun-sdk is not installed (extra view)")
    resource = pytest.importorskip("resource", reason="this system has no limit for files")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        done = deal("view", tiny_dataset, "--save", tmp_path / "out.rrd")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert done.returncode == 2 and "out.rrd: cannot be written" in done.stderr and "make room" in done.stderr
    assert [*tmp_path.iterdir()] == []


@pytest.mark.slow
def test_a_page_is_served_until_it_is_ended(tiny_dataset: Path) -> None:
    pytest.importorskip("rerun", reason="rerun-sdk is not installed (extra view)")
    port = _two_free_ports()
    command = [sys.executable, "-m", "training.cli", "view", str(tiny_dataset), "--serve", "--port", str(port)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr
        said = process.stderr.readline()
        assert f"open http://127.0.0.1:{port}/?url=rerun%2Bhttp://127.0.0.1:{port + 1}/proxy" in said
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=WAIT_S) as answer:
            assert answer.status == 200 and "html" in answer.headers["Content-Type"]
        with socket.create_connection(("127.0.0.1", port + 1), timeout=WAIT_S):
            pass
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=WAIT_S)
    assert process.returncode in (0, 130)


def _two_free_ports() -> int:
    """Return a port that is free, and whose next one is, too."""
    for _ in range(100):
        with socket.socket() as first, socket.socket() as second:
            first.bind(("", 0))
            port = first.getsockname()[1]
            try:
                second.bind(("", port + 1))
            except (OSError, OverflowError):
                continue
            return int(port)
    raise AssertionError("no two ports are free")
