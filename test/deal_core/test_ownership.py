"""One process writes an output; the next one finds and removes what a dead one left, and nothing else."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from helpers.paths import PROJECT

from deal_core.errors import DatasetError, InUseError
from deal_core.files import owning, replacing, replacing_folder
from deal_core.ownership import (
    NEW,
    OWNER_FILE,
    Owner,
    is_empty,
    leftovers,
    leftovers_of,
    remove_left_of,
    remove_leftovers,
    work_folder,
)


@contextmanager
def process(code: str) -> Iterator[subprocess.Popen[str]]:
    """Yield a process that has run the code and waits; it is killed at the end."""
    rooms = ("pathlib", "deal_core.errors", "deal_core.files", "deal_core.ownership")
    head = "".join(f"from {room} import *\n" for room in rooms)
    tail = "print('ready', flush=True)\nimport time\ntime.sleep(600)\n"
    command = [sys.executable, "-c", head + textwrap.dedent(code) + tail]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True) as started:
        try:
            assert started.stdout is not None and started.stdout.readline() == "ready\n"
            yield started
        finally:
            started.kill()


def killed(code: str) -> None:
    with process(code):
        pass


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_an_owner_that_was_killed_is_followed_by_the_next(tmp_path: Path) -> None:
    out = tmp_path / "run"
    hold = f"owned = owning(Path({str(out)!r}), DatasetError)\nowned.__enter__()\n"
    with process(hold) as first:
        message = f"{out} is being written by process {first.pid}: wait until it ends, or end it"
        with pytest.raises(InUseError) as refused, owning(out, DatasetError):
            pytest.fail("the first process owns it")
        assert str(refused.value) == message
        assert leftovers(out) == []
    assert leftovers(out) == [out / OWNER_FILE]
    with owning(out, DatasetError):
        assert (out / OWNER_FILE).read_text() == f"{os.getpid()} {socket.gethostname()}\n"
        (out / "model").touch()
    assert names(out) == ["model"]


def test_the_lock_of_a_killed_process_ends_with_its_workers(tmp_path: Path) -> None:
    """A worker that a training forked has the lock, too, and notices some time later that the training is dead."""
    hold = f"""
    import os, time
    owned = owning(Path({str(tmp_path / "run")!r}), DatasetError)
    owned.__enter__()
    if not os.fork():
        time.sleep(1)
        os._exit(0)
    """
    killed(hold)
    with owning(tmp_path / "run", DatasetError):
        pass


@pytest.mark.parametrize("kind", ["replacing", "replacing_folder"])
def test_what_a_killed_process_made_is_made_again(tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    out = tmp_path / "deep" / "kitchen"
    half = "(new / 'half').touch()" if kind == "replacing_folder" else "new.write_text('half')"
    killed(f"making = {kind}(Path({str(out)!r}))\nnew = making.__enter__()\n{half}\n")
    work = out.with_name(".kitchen.tmp")
    assert leftovers(tmp_path) == [work] and not out.exists() and is_empty(tmp_path)
    make = replacing_folder if kind == "replacing_folder" else replacing
    with make(out) as new:
        expected = [OWNER_FILE, "new"] if kind == "replacing_folder" else [OWNER_FILE]
        assert names(new.parent) == expected, "nothing of the killed process"
        new.mkdir(exist_ok=True) if kind == "replacing_folder" else new.write_text("whole")
    assert names(tmp_path) == ["deep", "deep/kitchen"]
    assert f"{work}: removed; a process that was killed left it" in caplog.text


def test_an_old_folder_comes_back_where_its_replacement_was_killed(tmp_path: Path) -> None:
    out = tmp_path / "recordings" / "kitchen"
    out.mkdir(parents=True)
    (out / "frames").write_text("old")
    die = """
    import os, signal
    from pathlib import Path
    rename = Path.rename
    def die(self, target):
        if target == OUT:
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(self, target)
    Path.rename = die
    with replacing_folder(OUT, overwrite=True) as new:
        (new / "frames").write_text("new")
    """
    code = f"from deal_core.files import *\nfrom pathlib import Path\nOUT = Path({str(out)!r})\n" + textwrap.dedent(die)
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT).returncode == -signal.SIGKILL
    assert names(out.parent) == [
        ".kitchen.tmp",
        *(f".kitchen.tmp/{name}" for name in (OWNER_FILE, "new", "new/frames", "old", "old/frames")),
    ]
    remove_leftovers(tmp_path)
    assert (out / "frames").read_text() == "old"
    assert names(tmp_path) == ["recordings", "recordings/kitchen", "recordings/kitchen/frames"]


def test_a_kill_between_the_last_two_steps_leaves_nothing_for_ever(tmp_path: Path) -> None:
    """The output is there, its work folder too, and the next command refuses to write the output again."""
    killed(f"""
    making = work_folder(Path({str(tmp_path / "kitchen")!r}))
    making.__enter__()
    Path({str(tmp_path / "kitchen")!r}).mkdir()
    """)
    assert leftovers_of(tmp_path / "kitchen") == [
        f"{tmp_path / '.kitchen.tmp'}: a process that was killed left it; the command that writes here removes it when "
        "it runs again"
    ]
    with work_folder(tmp_path / "other"):
        remove_left_of(tmp_path / "other")
        assert names(tmp_path) == [
            ".kitchen.tmp",
            f".kitchen.tmp/{OWNER_FILE}",
            ".other.tmp",
            f".other.tmp/{OWNER_FILE}",
            "kitchen",
        ]
    remove_left_of(tmp_path / "kitchen")
    assert names(tmp_path) == ["kitchen"] and leftovers_of(tmp_path / "kitchen") == []


def test_what_other_processes_are_writing_stays(tmp_path: Path) -> None:
    code = f"""
    file, folder = Path({str(tmp_path / "a" / "file")!r}), Path({str(tmp_path / "b" / "folder")!r})
    making = [replacing(file), replacing_folder(folder), owning(folder.parent / "run", DatasetError)]
    for one in making:
        one.__enter__()
    """
    with process(code):
        before = names(tmp_path)
        assert leftovers(tmp_path) == []
        remove_leftovers(tmp_path)
        assert names(tmp_path) == before
    remove_leftovers(tmp_path)
    assert names(tmp_path) == ["a", "b", "b/run"]


def test_what_version_0_1_0_left_is_known(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    left = [".checkpoint.pt.tmp", f".report.html.{gone.pid}.tmp"]
    for name in [*left, f".model.{os.getpid()}.tmp"]:
        (tmp_path / name).touch()
    (tmp_path / ".kitchen.0a1b2c3d.tmp" / "color").mkdir(parents=True)
    (tmp_path / ".table.0a1b2c3d.old").mkdir()
    (tmp_path / ".table.0a1b2c3d.old" / "frames").touch()
    assert [path.name for path in leftovers(tmp_path)] == sorted(
        [*left, ".kitchen.0a1b2c3d.tmp", ".table.0a1b2c3d.old"]
    )
    assert not is_empty(tmp_path), "a process of this number runs, and may still write its model"
    remove_leftovers(tmp_path)
    assert names(tmp_path) == [f".model.{os.getpid()}.tmp", "table", "table/frames"]
    (tmp_path / ".notes.tmp").touch()
    with replacing(tmp_path / "notes") as new:
        new.touch()
    assert names(tmp_path) == [f".model.{os.getpid()}.tmp", "notes", "table", "table/frames"]


def test_folders_of_people_are_not_touched(tmp_path: Path) -> None:
    for name in (".backup.tmp", ".config", "tmp", "kitchen.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").touch()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / ".x.tmp").touch()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "link").symlink_to(elsewhere)
    for folder in (tmp_path / "tmp", tmp_path / "kitchen.tmp", tmp_path / ".backup.tmp", tmp_path / "out"):
        assert not is_empty(folder)
        remove_leftovers(folder)
    assert is_empty(elsewhere) and leftovers(tmp_path) == [elsewhere / ".x.tmp"]


def test_an_owner_on_another_machine_counts_as_alive(tmp_path: Path) -> None:
    owner = Owner(tmp_path / OWNER_FILE, tmp_path)
    (tmp_path / OWNER_FILE).write_text("4711 robot\n")
    with pytest.raises(InUseError, match=rf"^{tmp_path} is being tagged by process 4711 on robot: wait"):
        Owner(tmp_path / OWNER_FILE, tmp_path, "tagged")
    owner.release()
    owner.release()
    assert names(tmp_path) == []


def test_an_interrupt_within_a_release_closes_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of the handle may be that of another file by then."""
    owner, close = Owner(tmp_path / OWNER_FILE, tmp_path), os.close

    def interrupted(handle: int) -> None:
        close(handle)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "close", interrupted)
        with pytest.raises(KeyboardInterrupt):
            owner.release()
    owner.release()
    assert names(tmp_path) == []


def test_a_lock_file_with_any_content_is_taken_over(tmp_path: Path) -> None:
    for content in (b"", b"\xff\xfe", b"99999999999999999999 here\n", b"-3 here", b"a b c"):
        (tmp_path / OWNER_FILE).write_bytes(content)
        with owning(tmp_path, DatasetError):
            pass
        assert names(tmp_path) == []


def test_a_folder_is_not_removed_under_another_process(tmp_path: Path) -> None:
    with work_folder(tmp_path / "file") as work:
        (work / OWNER_FILE).unlink()
        with work_folder(tmp_path / "file") as again:
            assert again == work
    assert names(tmp_path) == []


@pytest.mark.parametrize("step", ["unlink", "rmdir"])
def test_a_ctrl_c_while_the_work_folder_is_left_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    original, interrupted = getattr(Path, step), []

    def interrupt_once(self: Path, *arguments: Any, **options: Any) -> None:
        if not interrupted:
            interrupted.append(self)
            raise KeyboardInterrupt
        original(self, *arguments, **options)

    with pytest.raises(KeyboardInterrupt), work_folder(tmp_path / "model.safetensors") as work:
        (work / NEW).write_text("half")
        monkeypatch.setattr(Path, step, interrupt_once)
    assert interrupted and not list(tmp_path.iterdir())
