"""A file or folder is written whole, or stays as it was."""

import errno
import os
from pathlib import Path

import pytest

from deal_core.errors import DatasetError, InUseError
from deal_core.files import is_full, os_errors_as, owning, replacing, replacing_folder


@pytest.mark.parametrize("synced", [True, False])
def test_written_whole_or_not_at_all(tmp_path: Path, synced: bool) -> None:
    path = tmp_path / "new" / "report.html"
    with replacing(path, synced=synced) as temporary:
        temporary.write_text("first")
        assert not path.exists() and temporary.parent == path.parent / ".report.html.tmp"
    assert path.read_text() == "first"
    with pytest.raises(KeyboardInterrupt), replacing(path, synced=synced) as temporary:
        temporary.write_text("sec")
        raise KeyboardInterrupt
    assert path.read_text() == "first" and os.listdir(path.parent) == ["report.html"]
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "another" / "report.html", synced=synced):
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == ["new"], "the parent that was made for it is removed as well"


def test_rights_are_those_of_a_new_file(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with replacing(tmp_path / "new" / "file") as temporary:
            temporary.write_text("")
        with replacing_folder(tmp_path / "folder") as folder:
            (folder / "file").write_text("")
    finally:
        os.umask(before)
    rights = {str(path.relative_to(tmp_path)): path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    assert rights == {"new": 0o750, "new/file": 0o640, "folder": 0o750, "folder/file": 0o640}


def test_what_is_in_place_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced, fsync, places = [], os.fsync, {}

    def note(handle: int) -> None:
        synced.append(os.fstat(handle).st_ino)
        fsync(handle)

    monkeypatch.setattr(os, "fsync", note)
    with replacing(tmp_path / "file") as temporary:
        temporary.write_text("1")
        places["file"] = temporary.stat().st_ino
    assert synced == [places["file"], tmp_path.stat().st_ino], "first the content, then the name"
    synced.clear()
    with replacing_folder(tmp_path / "folder") as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "file").write_text("1")
        inside = {path.stat().st_ino for path in (folder, *folder.rglob("*"))}
    assert set(synced[:-1]) == inside and synced[-1] == tmp_path.stat().st_ino
    synced.clear()
    with replacing(tmp_path / "one_of_many", synced=False) as temporary:
        temporary.write_text("1")
    assert synced == []


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
        assert not path.exists() and folder.parent == path.parent / ".kitchen.tmp"
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
        if source == path.parent / ".kitchen.tmp" / "new":
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
    for place in (replacing, replacing_folder):
        with place(tmp_path / "kitchen") as new:
            new.touch()
            message = rf"kitchen is being written by process {os.getpid()}: wait until it ends, or end it"
            with pytest.raises(InUseError, match=message), place(tmp_path / "kitchen"):
                pytest.fail("the first one is writing")
        assert (tmp_path / "kitchen").exists() and os.listdir(tmp_path) == ["kitchen"]
        (tmp_path / "kitchen").rmdir() if place is replacing_folder else (tmp_path / "kitchen").unlink()


def test_a_folder_has_one_owner(tmp_path: Path) -> None:
    out = tmp_path / "new" / "run"
    with owning(out, DatasetError):
        (out / "model").touch()
        with (
            pytest.raises(InUseError, match=rf"run is being written by process {os.getpid()}"),
            owning(out, DatasetError),
        ):
            pytest.fail("the first one owns it")
    assert os.listdir(out) == ["model"]
    with owning(out, DatasetError):
        pass
    with pytest.raises(KeyboardInterrupt), owning(tmp_path / "another" / "run", DatasetError):
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == ["new"], "an empty folder does not stay"


def test_a_folder_that_cannot_be_owned(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    message = r"file/run cannot be written \(choose another output\): Not a directory"
    with pytest.raises(DatasetError, match=message), owning(tmp_path / "file" / "run", DatasetError):
        pytest.fail("there is nothing to own")


def test_a_full_disk_has_a_name() -> None:
    message = r"^mask\.png cannot be written: the disk is full$"
    with pytest.raises(DatasetError, match=message) as raised, os_errors_as(DatasetError, "mask.png cannot be written"):
        raise OSError(errno.ENOSPC, "No space left on device", "mask.png")
    assert isinstance(raised.value.__cause__, OSError) and is_full(raised.value.__cause__)
    assert not is_full(OSError(errno.EACCES, "Permission denied"))
