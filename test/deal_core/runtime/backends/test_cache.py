"""The cache of what is costly to make: made once, and again where it is damaged or of something else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from deal_core.runtime.backends.cache import cached, default_cache_dir

KEY = {"model": "abc", "size": "48x64"}


class Maker:
    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> bytes:
        self.times += 1
        return b"contents\n" + bytes([self.times])


def test_it_is_made_once_for_a_key_and_for_this_user_alone(tmp_path: Path) -> None:
    make, folder = Maker(), tmp_path / "cache"
    assert cached(folder, "onnx", KEY, make) == cached(folder, "onnx", KEY, make) == b"contents\n\x01"
    assert cached(folder, "onnx", {**KEY, "size": "96x128"}, make) == b"contents\n\x02"
    assert cached(folder, "engine", KEY, make) == b"contents\n\x03"
    assert folder.stat().st_mode & 0o777 == 0o700 and len(list(folder.iterdir())) == 3


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "foreign", "other key"])
def test_a_damaged_file_is_made_again_and_said_so(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    make = Maker()
    cached(tmp_path, "onnx", KEY, make)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    if damage == "other key":
        cached(tmp_path, "onnx", {"model": "other"}, make)
        (other,) = set(tmp_path.iterdir()) - {file}
        other.rename(file)
    else:
        contents = {"cut": whole[:-1], "flipped": whole[:-1] + b"\xff", "empty": b"", "foreign": b"\x89PNG\r\n\x1a\n"}
        file.write_bytes(contents[damage])
    made = make.times
    assert cached(tmp_path, "onnx", KEY, make) == b"contents\n" + bytes([made + 1])
    assert f"{file}" in caplog.text and "making it again" in caplog.text
    assert cached(tmp_path, "onnx", KEY, make) == b"contents\n" + bytes([made + 1])


def test_where_nothing_can_be_written_it_is_made_each_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make, folder = Maker(), tmp_path / "a file"
    folder.write_text("in the way")
    assert cached(folder, "onnx", KEY, make) != cached(folder, "onnx", KEY, make)
    assert "cannot be written" in caplog.text


def test_the_folder_is_that_of_the_user() -> None:
    assert default_cache_dir() == Path(os.environ["XDG_CACHE_HOME"]) / "deal_ros"
