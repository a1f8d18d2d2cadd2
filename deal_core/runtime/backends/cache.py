"""A cache of files that are expensive to make, found by their inputs and checked when read."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from deal_core.errors import InUseError
from deal_core.files import replacing
from deal_core.text_formats import parse_json

_MAGIC = b"DEAL cache 1\n"
_log = logging.getLogger(__name__)


def default_cache_dir() -> Path:
    """Return the cache folder of this user: `$XDG_CACHE_HOME/deal_ros`, or `~/.cache/deal_ros`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deal_ros"


def cached(folder: Path, kind: str, key: Mapping[str, str], make: Callable[[], bytes]) -> bytes:
    """Return the contents that `make` makes, from the cache if it has them for the same key.

    Damaged files and files of another key are made again, and a folder that cannot be written is not used; both cases
    log a warning.

    Args:
        folder: Cache folder, made if missing, with access for this user only.
        kind: Kind of the contents, at the beginning of the file name.
        key: Everything that the contents depend on.
        make: Function that makes the contents.
    """
    found = _read(_path(folder, kind, key), key)
    if found is not None:
        return found
    contents = make()
    keep(folder, kind, key, contents)
    return contents


def keep(folder: Path, kind: str, key: Mapping[str, str], contents: bytes) -> None:
    """Write contents into the cache; log a warning if the folder cannot be written."""
    header = {"key": dict(key), "sha256": hashlib.sha256(contents).hexdigest()}
    path = _path(folder, kind, key)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_bytes(_MAGIC + json.dumps(header).encode() + b"\n" + contents)
    except (OSError, InUseError) as error:
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
        described = parse_json(header.decode()) if magic == _MAGIC else {}
    except ValueError:
        described = {}
    if not isinstance(described, dict) or described.get("sha256") != hashlib.sha256(contents).hexdigest():
        _log.warning("%s is damaged: making it again", path)
        return None
    if described.get("key") != dict(key):
        _log.warning("%s was made from other inputs (%s): making it again", path, described.get("key"))
        return None
    return contents


def _path(folder: Path, kind: str, key: Mapping[str, str]) -> Path:
    digest = hashlib.sha256(json.dumps(dict(key), sort_keys=True).encode()).hexdigest()
    return folder / f"{kind}-{digest[:24]}"
