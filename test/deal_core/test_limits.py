"""Limits are believed, raised, and named; what is no file is not waited for."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deal_core.dataset.image_files import read_color, refuse_outside
from deal_core.errors import DatasetError, DealError, UsageError, short
from deal_core.limits import LIMITS, VARIABLE, limit, over, raise_limits, read_bytes, refuse_over
from deal_core.recording.reader import open_recording
from deal_core.settings_file import load_settings
from deal_core.trainer.settings import TrainSettings


@pytest.fixture(autouse=True)
def no_raised_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "")


@pytest.mark.parametrize("name", LIMITS)
def test_each_limit_holds_and_the_sentence_says_how_to_raise_it(name: str) -> None:
    most = LIMITS[name]
    assert over(name, most, "things") is None
    sentence = over(name, most + 1, "things")
    assert sentence and f"{most + 1} things are over the limit of {most}" in sentence
    given = sentence.split("deal --limit ")[1].split(" ")[0]
    raise_limits(given)
    assert limit(name) == most + 1 and over(name, most + 1, "things") is None
    assert over(name, float("nan"), "things") and over(name, float("inf"), "things")
    with pytest.raises(DatasetError, match="over the limit"):
        refuse_over(name, most + 2, "things", DatasetError)


def test_a_later_value_wins_and_a_wrong_one_is_named() -> None:
    raise_limits("jpeg_scans=200 yaml_values=7")
    raise_limits("jpeg_scans=300")
    assert (limit("jpeg_scans"), limit("yaml_values")) == (300, 7)
    for given, said in (
        ("jpeg_scan=3", "Did you mean 'jpeg_scans'"),
        ("jpeg_scans=-1", "whole number"),
        ("x", "unknown"),
    ):
        with pytest.raises(UsageError, match=said):
            raise_limits(given)
    assert limit("jpeg_scans") == 300


def test_the_command_line_raises_a_limit(
    tmp_path: Path, deal: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dataset.yaml").write_text("format: deal-dataset\nversion: 1\ndepth_unit: mm\nclasses: [[[[1]]]]\n")
    monkeypatch.setenv(VARIABLE, "nesting=3")
    assert "over the limit of 3" in deal("check", tmp_path).stderr
    assert "over the limit" not in deal("--limit", "nesting=50", "check", tmp_path).stderr


@pytest.mark.parametrize("kind", ["pipe", "device", "socket", "folder"])
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "image.png"
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "device":
        file.symlink_to("/dev/zero")
    elif kind == "folder":
        file.mkdir()
    else:
        socket.socket(socket.AF_UNIX).bind(str(file))
    with pytest.raises(OSError):
        read_bytes(file)
    with pytest.raises(DatasetError, match="cannot be read"):
        read_color(file, "image", "draw it")
    for name in ("bag.mcap", "bag.db3", "bag.mcap.zstd", "settings.yaml"):
        (tmp_path / name).symlink_to(file)
    for name in ("bag.mcap", "bag.db3", "bag.mcap.zstd"):
        with pytest.raises(DealError):
            open_recording(tmp_path / name)
    with pytest.raises(DealError, match="cannot read"):
        load_settings(TrainSettings, tmp_path / "settings.yaml")


def test_a_file_is_read_up_to_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "tags.csv"
    file.write_bytes(b"x" * 10)
    monkeypatch.setenv(VARIABLE, "text_bytes=10")
    assert read_bytes(file) == b"x" * 10
    file.write_bytes(b"x" * 11)
    with pytest.raises(OSError, match="11 bytes are over the limit of 10"):
        read_bytes(file)
    assert read_bytes(Path("/proc/self/status"), "message_bytes").startswith(b"Name:")  # it says that it has 0 bytes


def test_links_may_lead_to_the_dataset_and_not_out_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, outside = tmp_path / "dataset", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (root / "in").symlink_to(root)
    (root / "out").symlink_to(outside)
    (root / "circle").symlink_to(root / "circle")
    (tmp_path / "link").symlink_to(root)
    refuse_outside(root, root / "in" / "frames.jsonl", root / "missing")
    refuse_outside(tmp_path / "link", root / "frames.jsonl", tmp_path / "link" / "frames.jsonl")
    for name in ("out", "out/frames.jsonl"):
        with pytest.raises(DatasetError, match="outside_links=1"):
            refuse_outside(root, root / name)
    monkeypatch.setenv(VARIABLE, "outside_links=1")
    refuse_outside(root, root / "out")


def test_an_error_does_not_expand_what_it_complains_about() -> None:
    nested: list[Any] = []
    for _ in range(100):
        nested = [nested, nested]
    for value in (nested, "x" * 10**7, [0] * 10**6, 10**5000, {"k" * 10**6: 1}):
        assert len(short(value)) <= 81
    assert short({"a": [1, "b"]}) == "{'a': [1, 'b']}"
    assert len(str(DatasetError("x" * 10**6))) < 3100
    assert str(DatasetError("a\x1b[31m\ud800b\n")) == "a\\x1b[31m\\ud800b\n"
