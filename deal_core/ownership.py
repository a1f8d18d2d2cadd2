"""One process writes an output at a time, and the next one removes what a dead one left.

The lock of an output is a file `.owner` that holds the number of the process. The system releases the lock when the
process ends, however it ends, so that the next process takes over the file of a dead one. There are two places:

- A folder that is filled over time, such as a run folder or a dataset, contains its own `.owner`; see
  `deal_core.files.owning`.
- A file or folder that appears when it is complete is made in a work folder beside it, `.<name>.tmp`, which contains
  `.owner` and what is made; see `work_folder`.

docs/reference/formats.md describes the rule for people.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from deal_core.errors import InUseError

OWNER_FILE = ".owner"
NEW, OLD = "new", "old"
"""Names in a work folder: of what is being made, and of what it replaces, which goes back to its place if the process
dies. Neither is the name of the output, so that no search for files of its kind finds an incomplete one."""

_SETTLE_S = 30.0  # the worker processes of a killed training end within a few seconds, and hold its lock until then
_POLL_S = 0.05
_ADVICE = "wait until it ends, or end it"
_WORK = re.compile(r"^\.(?P<name>.+)\.tmp$")
# Version 0.1.0 wrote to `.kitchen.1a2b3c4d.tmp`, moved an old folder to `.kitchen.1a2b3c4d.old`, and wrote files to
# `.report.html.4711.tmp`.
_OLDER_FOLDER = re.compile(r"^\.(?P<name>.+)\.[0-9a-f]{8}\.(?P<kind>tmp|old)$")
_OLDER_FILE = re.compile(r"^\..+?(\.(?P<pid>\d+))?\.tmp$")
_WITHOUT_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
_log = logging.getLogger(__name__)


class Owner:
    """The ownership of an output, from the construction to `release` or the end of the process.

    Args:
        file: lock file, in a folder that exists.
        output: what is owned, for the message.
        task: what the owner does, for the message.
        advice: what to do where another process owns the output, for the message.

    Raises:
        InUseError: another process owns the output.
        OSError: the file cannot be written.
    """

    def __init__(self, file: Path, output: Path, task: str = "written", advice: str = _ADVICE) -> None:
        self._file = file
        self._handle = _lock(file, f"{output} is being {task} by", advice)
        try:
            os.ftruncate(self._handle, 0)
            os.write(self._handle, f"{os.getpid()} {socket.gethostname()}\n".encode())
        except OSError:
            self.release()
            raise

    @property
    def is_held(self) -> bool:
        """Whether the ownership has not ended."""
        return self._handle >= 0

    def release(self) -> None:
        """End the ownership; a second call does nothing."""
        handle, self._handle = self._handle, -1  # first, so that a call after a Ctrl-C in this one closes nothing twice
        if handle >= 0:
            try:
                with suppress(OSError):
                    self._file.unlink()  # while it is locked, it is no other process's
            finally:
                os.close(handle)


@contextmanager
def work_folder(output: Path) -> Iterator[Path]:
    """Yield an empty folder `.<name>.tmp` beside an output, to make the output in; it is removed at the end.

    Args:
        output: file or folder to make. Its parents are made if missing, and removed again if they stay empty.

    Raises:
        InUseError: another process makes the same output.
        OSError: the folder cannot be made.
    """
    work = work_place(output)
    with made(output.parent):
        owner = _enter(work, output)
        try:
            if _clear(work):
                _log.warning("%s: removed; a process that was killed left it", work)
            yield work
        finally:
            try:
                _leave(work, owner)
            except KeyboardInterrupt:  # a Ctrl-C in the middle; each step may be done twice
                _leave(work, owner)
                raise


@contextmanager
def made(folder: Path) -> Iterator[None]:
    """Make a folder and its parents; remove those that were made and are empty at the end."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        with suppress(OSError):  # a folder that is not empty stays, and so do its parents
            for path in missing:
                path.rmdir()


def leftovers(folder: Path, depth: int | None = None) -> list[Path]:
    """Return what dead processes left in a folder and below it, in order: work folders, temporary files, locks.

    Args:
        folder: folder to search.
        depth: number of levels of folders to search, for a folder that may hold anything; None for all.
    """
    return sorted(_leftovers(folder, depth))


def remove_left_of(output: Path) -> None:
    """Remove the work folder of an output, if a dead process left it; what it was replacing is put back."""
    work = work_place(output)
    if _is_work(work) and _is_dead(work / OWNER_FILE):
        _remove_and_tell(work)


def leftovers_of(output: Path, depth: int | None = None) -> list[str]:
    """Return a sentence for each thing that dead processes left of an output: beside it, and in it as `leftovers`."""
    work = work_place(output)
    beside = [work] if _is_work(work) and _is_dead(work / OWNER_FILE) else []
    said = "a process that was killed left it; the command that writes here removes it when it runs again"
    return [f"{path}: {said}" for path in [*beside, *leftovers(output, depth)]]


def work_place(output: Path) -> Path:
    """Return the path of the work folder of an output."""
    return output.with_name(f".{output.name}.tmp")


def remove_leftovers(folder: Path) -> None:
    """Remove what dead processes left in a folder and below it; an output that was being replaced is put back."""
    for path in leftovers(folder):
        _remove_and_tell(path)


def is_empty(folder: Path) -> bool:
    """Return whether a folder holds no file, apart from locks, work folders and what dead processes left."""
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            if not (_is_work(entry) or _OLDER_FOLDER.match(entry.name) or is_empty(entry)):
                return False
        elif not (entry.name.startswith(OWNER_FILE) or _is_older_file(entry)):
            return False
    return True


def _lock(file: Path, refusal: str, advice: str) -> int:
    """Return the locked file, opened.

    The lock of a killed process may live on in its worker processes; they get some time to end.
    """
    give_up = time.monotonic() + _SETTLE_S
    while True:
        handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        if _take(handle):
            if _is_at(handle, file):
                return handle
            os.close(handle)  # its owner removed it in between
            continue
        pid, host = _holder(handle)
        os.close(handle)
        if _is_alive(pid, host) or time.monotonic() > give_up:
            by = f"process {pid}" if pid else "another process"
            at = f" on {host}" if host not in ("", socket.gethostname()) else ""
            raise InUseError(f"{refusal} {by}{at}: {advice}")
        time.sleep(_POLL_S)


def _take(handle: int) -> bool:
    """Lock an open file, if no other process has locked it; a file system without locks lets every process pass."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _WITHOUT_LOCKS:
            raise
    return True


def _holder(handle: int) -> tuple[int, str]:
    """Return process and host that a lock file names; 0 and "" while its owner has not written them."""
    words = os.pread(handle, 400, 0).decode(errors="replace").split()
    return (int(words[0]), words[1]) if len(words) == 2 and words[0].isascii() and words[0].isdecimal() else (0, "")


def _is_alive(pid: int, host: str) -> bool:
    """Return whether a process runs; a process of another host does."""
    if not pid:
        return False
    if host and host != socket.gethostname():
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # of another user
        return True
    return True


def _is_at(handle: int, path: Path) -> bool:
    """Return whether an open file is the one at a path."""
    try:
        there = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(handle), there)


def _enter(work: Path, output: Path) -> Owner:
    """Make a work folder, or take over that of a dead process."""
    while True:
        if work.is_symlink() or work.is_file():  # of version 0.1.0
            work.unlink(missing_ok=True)
        work.mkdir(exist_ok=True)
        try:
            return Owner(work / OWNER_FILE, output)
        except FileNotFoundError:  # its owner removed it in between
            continue
        except (OSError, KeyboardInterrupt):
            with suppress(OSError):
                work.rmdir()
            raise


def _leave(work: Path, owner: Owner) -> None:
    """Remove a work folder that this process owns."""
    with suppress(OSError):  # an old output that cannot go back stays in the work folder
        _clear(work)
    owner.release()
    with suppress(OSError):  # another process may have entered it
        work.rmdir()


def _clear(work: Path) -> bool:
    """Empty a work folder that this process owns; return whether it held anything besides the lock.

    The lock goes last: without it, the folder would no longer be known as a work folder.
    """
    if (work / OLD).exists():
        _put_back(work / OLD, work.with_name(work.name[1:].removesuffix(".tmp")))
    found = [path for path in work.iterdir() if path.name != OWNER_FILE]
    for path in found:
        _delete(path)
    return bool(found)


def _put_back(old: Path, place: Path) -> None:
    if not place.exists() and not place.is_symlink():
        old.rename(place)


def _leftovers(folder: Path, depth: int | None) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        level = len(Path(parent).relative_to(folder).parts) + 1
        for name in list(folders):
            path = Path(parent, name)
            is_older = _OLDER_FOLDER.match(name) is not None
            if is_older or _is_work(path):
                folders.remove(name)
                if is_older or _is_dead(path / OWNER_FILE):
                    yield path
        if level == depth:
            folders.clear()
        for name in files:
            path = Path(parent, name)
            if _is_dead(path) if name.startswith(OWNER_FILE) else _is_older_file(path):
                yield path


def _is_work(folder: Path) -> bool:
    """Return whether a folder is a work folder: it has a lock, or its process died before it had one."""
    if not _WORK.match(folder.name) or not folder.is_dir():
        return False
    try:
        return (folder / OWNER_FILE).is_file() or not any(folder.iterdir())
    except OSError:  # its owner removed it in between, or it cannot be read
        return False


def _is_older_file(file: Path) -> bool:
    """Return whether a dead process of version 0.1.0 left a file."""
    match = _OLDER_FILE.match(file.name)
    return match is not None and not _is_alive(int(match["pid"] or 0), "")


def _is_dead(file: Path) -> bool:
    """Return whether no process holds a lock file."""
    try:
        handle = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return not file.exists()
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


def _remove_and_tell(path: Path) -> None:
    with suppress(InUseError, OSError):
        _remove(path)
        _log.warning("%s: removed; a process that was killed left it", path)


def _remove(path: Path) -> None:
    """Remove what a dead process left."""
    older = _OLDER_FOLDER.match(path.name)
    if older and path.is_dir():
        if older["kind"] == "old":
            _put_back(path, path.with_name(older["name"]))
        _delete(path)
    elif path.is_dir():
        owner = Owner(path / OWNER_FILE, path)
        try:
            _clear(path)
        finally:
            owner.release()
        path.rmdir()
    elif path.name.startswith(OWNER_FILE):
        Owner(path, path.parent).release()
    else:
        path.unlink()


def _delete(path: Path) -> None:
    """Delete a file, a link or a folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
