"""A file or folder is written whole, or stays as it was."""

import os
from pathlib import Path

import pytest

from deal_core.files import replacing, replacing_folder


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


def _contents(folder: Path) -> dict[str, str]:
    return {str(file.relative_to(folder)): file.read_text() for file in folder.rglob("*") if file.is_file()}


def test_a_folder_is_made_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "kitchen"
    with pytest.raises(KeyboardInterrupt), replacing_folder(path) as folder:
        (folder / "half").write_text("")
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == [], "the parent that was made for it is removed as well"
    with replacing_folder(path) as folder:
        (folder / "a").write_text("1")
        assert not path.exists() and folder.parent == path.parent and folder.name.startswith(".kitchen.")
    assert _contents(tmp_path) == {"new/kitchen/a": "1"}
    (tmp_path / "plain").mkdir()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_an_old_folder_stays_until_the_new_one_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "kitchen"
    path.mkdir()
    (path / "a").write_text("old")
    with pytest.raises(OSError), replacing_folder(path) as folder:
        (folder / "a").write_text("not to be replaced")
    with pytest.raises(KeyboardInterrupt), replacing_folder(path, overwrite=True):
        raise KeyboardInterrupt
    assert _contents(tmp_path) == {"kitchen/a": "old"} and os.listdir(tmp_path) == ["kitchen"]
    with replacing_folder(path, overwrite=True) as folder:
        (folder / "b").write_text("new")
        assert _contents(path) == {"a": "old"}
    assert _contents(tmp_path) == {"kitchen/b": "new"} and os.listdir(tmp_path) == ["kitchen"]


def test_the_old_folder_is_put_back_where_the_new_one_cannot_be_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, rename = tmp_path / "kitchen", Path.rename

    def refuse(source: Path, target: Path) -> Path:
        if source.suffix == ".tmp":
            raise OSError("refused")
        return rename(source, target)

    path.mkdir()
    (path / "a").write_text("old")
    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="refused"), replacing_folder(path, overwrite=True) as folder:
        (folder / "a").write_text("new")
    assert _contents(tmp_path) == {"kitchen/a": "old"} and os.listdir(tmp_path) == ["kitchen"]


def test_a_link_to_a_folder_is_replaced_and_its_target_kept(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a").write_text("kept")
    (tmp_path / "kitchen").symlink_to(tmp_path / "elsewhere")
    with replacing_folder(tmp_path / "kitchen", overwrite=True) as folder:
        (folder / "b").write_text("new")
    assert not (tmp_path / "kitchen").is_symlink()
    assert _contents(tmp_path) == {"elsewhere/a": "kept", "kitchen/b": "new"}
    assert sorted(os.listdir(tmp_path)) == ["elsewhere", "kitchen"]


def test_two_writers_at_a_time_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "kitchen"
    with replacing_folder(path, overwrite=True) as one:
        with replacing_folder(path, overwrite=True) as two:
            (one / "a").write_text("one")
            (two / "a").write_text("two")
        assert _contents(path) == {"a": "two"}
    assert _contents(path) == {"a": "one"} and os.listdir(tmp_path) == ["kitchen"]
