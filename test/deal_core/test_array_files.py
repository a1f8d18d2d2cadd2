"""Arrays are read as numpy reads them; what would unpack to more than a file should hold is refused before."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from deal_core.array_files import read_arrays


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_are_read_as_numpy_reads_them(tmp_path: Path, save: object) -> None:
    file = tmp_path / "a.npz"
    rng = np.random.default_rng(1)
    whole = {
        "a": rng.random((3, 4)),
        "b": np.asfortranarray(rng.integers(0, 9, (2, 5), np.uint8)),
        "c": np.zeros((0, 7)),
    }
    save(file, **whole)  # type: ignore[operator]
    with np.load(file) as expected:
        for name, found in zip(whole, read_arrays(file, list(whole)), strict=True):
            np.testing.assert_array_equal(found, expected[name])
            assert found.dtype == expected[name].dtype


@pytest.mark.parametrize(
    ("shape", "data", "said"),
    [
        ((10**5, 10**5), b"", "over the limit"),
        ((2**40,), b"", "over the limit"),
        ((4,), b"", "EOF|read"),
        ((-4,), b"", "."),
    ],
)
def test_more_than_the_file_has_is_refused(tmp_path: Path, shape: tuple[int, ...], data: bytes, said: str) -> None:
    array = io.BytesIO()
    np.lib.format.write_array_header_1_0(array, {"descr": "|u1", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("a.npy", array.getvalue() + data)
    with pytest.raises(ValueError, match=said):
        read_arrays(tmp_path / "a.npz", ["a"])


def test_a_member_that_unpacks_to_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "a.npz", a=np.zeros(10**5, np.uint8))
    monkeypatch.setenv("DEAL_LIMITS", "array_bytes=50000")
    with pytest.raises(ValueError, match="over the limit of 50000"):
        read_arrays(tmp_path / "a.npz", ["a"])


def test_objects_and_other_files_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=np.array([{}], object))
    for name in ("a", "missing"):
        with pytest.raises(ValueError):
            read_arrays(tmp_path / "a.npz", [name])
    (tmp_path / "a.npz").write_bytes(b"PK")
    with pytest.raises(ValueError):
        read_arrays(tmp_path / "a.npz", ["a"])
