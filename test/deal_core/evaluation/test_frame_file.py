"""Records survive a process that ends anywhere, and a file never yields a part of one."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deal_core.errors import EvaluationError
from deal_core.evaluation import frame_file
from deal_core.evaluation.frame_file import FrameFile

RECORDS = {"a/1": b"first" * 40, "a/2": b"", "b/\n1": b"\n\n{}", "c": bytes(range(256))}


def written(path: Path) -> bytes:
    file = FrameFile(path, "about")
    for number, (key, content) in enumerate(RECORDS.items()):
        file.append(key, number, content)
    file.close()
    return path.read_bytes()


def test_every_record_is_read_again(tmp_path: Path) -> None:
    written(tmp_path / "new" / "x")
    for may_write in (True, False):
        file = FrameFile(tmp_path / "new" / "x", "about", may_write=may_write)
        assert file.is_same and list(file.keys) == list(RECORDS)
        for number, (key, content) in enumerate(RECORDS.items()):
            assert file.read(key) == content and file.checksum(key) == number
        file.close()
    other = FrameFile(tmp_path / "new" / "x", "about something else", may_write=False)
    assert not other.is_same and not other.keys
    other.close()
    assert FrameFile(tmp_path / "new" / "x", "about").keys, "reading leaves the file"


@given(length=st.integers(0, 10_000), junk=st.binary(max_size=50))
def test_what_follows_the_last_complete_record_is_cut_off(length: int, junk: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x"
        whole = written(path)
        length = min(length, len(whole))
        path.write_bytes(whole[:length] + junk)
        file = FrameFile(path, "about")
        kept = list(file.keys)
        assert set(kept) <= set(RECORDS) or junk
        assert all(file.read(key) == RECORDS[key] for key in kept if key in RECORDS)
        if length == len(whole):
            assert kept[: len(RECORDS)] == list(RECORDS)
        file.append("later", 5, b"more")
        file.close()
        again = FrameFile(path, "about")
        assert list(again.keys) == [*kept, "later"] and again.read("later") == b"more"
        again.close()


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def write(self, data: Any) -> int:
            raise OSError(28, "No space left on device")

        def __getattr__(self, name: str) -> Any:
            return lambda *args: 0

    monkeypatch.setattr(frame_file.tempfile, "TemporaryFile", lambda buffering: Full())
    with pytest.raises(EvaluationError, match=r"TMPDIR.*: the disk is full"):
        FrameFile(None, "about")
    with pytest.raises(EvaluationError, match=r"nowhere/x cannot be opened"):
        (tmp_path / "nowhere").touch()
        FrameFile(tmp_path / "nowhere" / "x", "about")


def test_a_record_that_unpacks_to_too_much_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.frames"
    file = FrameFile(path, "about")
    for key, size in (("small", 1000), ("large", 10**6), ("behind", 10)):
        file.append(key, 1, bytes(size))
    file.close()
    monkeypatch.setenv("DEAL_LIMITS", "array_bytes=100000")
    again = FrameFile(path, "about")
    assert list(again.keys) == ["small"] and again.read("small") == bytes(1000)
    again.close()
