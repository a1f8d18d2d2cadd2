"""A file is written whole, or stays as it was."""

import os
from pathlib import Path

import pytest

from deal_core.files import replacing


@pytest.mark.parametrize("per_process", [True, False])
def test_written_whole_or_not_at_all(tmp_path: Path, per_process: bool) -> None:
    path = tmp_path / "new" / "report.html"
    with replacing(path, per_process=per_process) as temporary:
        temporary.write_text("first")
        assert not path.exists() and temporary.parent == path.parent
    assert path.read_text() == "first"
    with pytest.raises(KeyboardInterrupt), replacing(path, per_process=per_process) as temporary:
        temporary.write_text("sec")
        raise KeyboardInterrupt
    assert path.read_text() == "first" and os.listdir(path.parent) == ["report.html"]


def test_a_block_that_writes_nothing_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), replacing(path):
        pass
    assert path.read_text() == "old"


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError), replacing(tmp_path / "file" / "inside"):
        pytest.fail("there is nothing to write to")
