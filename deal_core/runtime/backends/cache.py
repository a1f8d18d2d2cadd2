"""A cache of files that are costly to make: found by what they were made from, checked when read."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from deal_core.files import replacing

_MAGIC = b"DEAL cache 1\n"
_log = logging.getLogger(__name__)


def default_cache_dir() -> Path:
    """Return the folder for this user: `$XDG_CACHE_HOME/deal_ros`, or `~/.cache/deal_ros`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deal_ros"


def cached(folder: Path, kind: str, key: Mapping[str, str], make: Callable[[], bytes]) -> bytes:
    """Return what `make` makes, from the folder where it was made before from the same key.

    A file that is damaged, or was made from another key, is made again, and a folder that cannot be written is done
    without, both with a warning.

    Args:
        folder: of the cache; made if missing, for this user alone.
        kind: of the contents, the beginning of the file's name.
        key: everything that the contents depend on.
        make: makes the contents.
    """
    found = _read(_path(folder, kind, key), key)
    if found is not None:
        return found
    contents = make()
    keep(folder, kind, key, contents)
    return contents


def keep(folder: Path, kind: str, key: Mapping[str, str], contents: bytes) -> None:
    """Write contents for `cached` to find; where the folder cannot be written, a warning says so."""
    header = {"key": dict(key), "sha256": hashlib.sha256(contents).hexdigest()}
    path = _path(folder, kind, key)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_bytes(_MAGIC + json.dumps(header).encode() + b"\n" + contents)
    except OSError as error:
        _log.warning("%s cannot be written (%s): it will be made again at the next start", path, error)


def _read(path: Path, key: Mapping[str, str]) -> bytes | None:
    try:
        with path.open("rb") as file:
            magic, header, contents = file.readline(), file.readline(), file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        _log.warning("%s cannot be read (%s): making it again", path, error)
        return None
    try:
        described = json.loads(header) if magic == _MAGIC else {}
    except ValueError:
        described = {}
    if not isinstance(described, dict) or described.get("sha256") != hashlib.sha256(contents).hexdigest():
        _log.warning("%s is damaged: making it again", path)
        return None
    if described.get("key") != dict(key):
        _log.warning("%s was made from something else (%s): making it again", path, described.get("key"))
        return None
    return contents


def _path(folder: Path, kind: str, key: Mapping[str, str]) -> Path:
    digest = hashlib.sha256(json.dumps(dict(key), sort_keys=True).encode()).hexdigest()
    return folder / f"{kind}-{digest[:24]}"
