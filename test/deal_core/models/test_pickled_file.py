"""Files of PyTorch: what is sound is read, and what would fill the memory is refused before it does."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra train)")

from deal_core.models.pickled_file import read_pickled  # noqa: E402 (after the check above)


class Bomb:
    """Its pickle asks for a bytearray of a gigabyte."""

    def __reduce__(self) -> Any:
        return bytearray, (2**30,)


def save(file: Path, content: Any, *, is_archive: bool) -> Path:
    torch.save(content, file, _use_new_zipfile_serialization=is_archive)
    return file


@pytest.mark.parametrize("is_archive", [True, False])
def test_tensors_numbers_and_texts_are_read(tmp_path: Path, is_archive: bool) -> None:
    content = {"step": 3, "name": "mug", "weights": {"a": torch.arange(6.0).reshape(2, 3)}, "list": [1, None, True]}
    found = read_pickled(save(tmp_path / "a.pt", content, is_archive=is_archive))
    assert torch.equal(found["weights"]["a"], content["weights"]["a"])
    assert {k: v for k, v in found.items() if k != "weights"} == {k: v for k, v in content.items() if k != "weights"}


@pytest.mark.parametrize("is_archive", [True, False])
def test_a_pickle_that_asks_for_memory_is_refused(tmp_path: Path, is_archive: bool) -> None:
    with pytest.raises(UnpicklingError, match="bytearray"):
        read_pickled(save(tmp_path / "a.pt", {"x": Bomb()}, is_archive=is_archive))


@pytest.mark.parametrize("is_archive", [True, False])
def test_a_long_pickle_is_refused(tmp_path: Path, is_archive: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEAL_LIMITS", "header_bytes=2000")
    with pytest.raises(ValueError, match="over the limit of 2000"):
        read_pickled(save(tmp_path / "a.pt", [[] for _ in range(2000)], is_archive=is_archive))


def test_tensors_may_be_larger_than_the_pickle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEAL_LIMITS", "header_bytes=2000")
    for is_archive in (True, False):
        assert read_pickled(save(tmp_path / "a.pt", torch.zeros(10**4), is_archive=is_archive)).shape == (10**4,)


@pytest.mark.parametrize("is_wide", [False, True])
def test_a_list_of_members_that_is_long_or_says_so_is_refused(tmp_path: Path, is_wide: bool) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps(1, 2))
    data = bytearray(content.getvalue())
    end = data.rfind(b"PK\x05\x06")
    if is_wide:
        record = b"PK\x06\x06" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, 10**9, 10**9, 10**11, 0)
        data[end:end] = record + b"PK\x06\x07" + struct.pack("<IQI", 0, end, 1)
    else:
        struct.pack_into("<I", data, end + 12, 10**9)
    (tmp_path / "a.pt").write_bytes(data)
    with pytest.raises(ValueError, match="list of members are over the limit"):
        read_pickled(tmp_path / "a.pt")


def test_what_is_no_file_or_damaged_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.pt")
    with pytest.raises(OSError, match="found a pipe"):
        read_pickled(tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(b"PK\x05\x06")
    with pytest.raises(ValueError):
        read_pickled(tmp_path / "b.pt")
    (tmp_path / "c.pt").write_bytes(b"")
    with pytest.raises(ValueError):
        read_pickled(tmp_path / "c.pt")
