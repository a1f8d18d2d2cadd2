"""Read what is left of a damaged sqlite3 recording, row by row, without its index of times."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

from deal_core.data.stored import Damage, StoredChannel, StoredMessage
from deal_core.errors import RecordingError

_JOURNALS = ("-wal", "-journal")
_LAST_ROW = 2**63 - 1


def journal(path: Path) -> Path | None:
    """Return the journal that a killed recorder left beside a `.db3`; None where there is none."""
    files = (path.with_name(path.name + suffix) for suffix in _JOURNALS)
    return next((file for file in files if file.is_file() and file.stat().st_size), None)


def copy_with_journal(path: Path, folder: Path) -> Path:
    """Copy a `.db3` and its journals to a folder and let sqlite3 bring them together; return the copy.

    Raises:
        OSError: it cannot be copied.
    """
    for file in (path, *(path.with_name(path.name + suffix) for suffix in _JOURNALS)):
        if file.is_file():
            shutil.copyfile(file, folder / file.name)
    copy = folder / path.name
    with suppress(sqlite3.DatabaseError), closing(sqlite3.connect(copy)) as database:
        # Reading rolls a journal back; the checkpoint brings a write-ahead log in. A damaged one stays as it is.
        database.execute("SELECT count(*) FROM sqlite_master").fetchone()
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    return copy


def scan_sqlite(path: Path, damage: Damage) -> Iterator[StoredMessage]:
    """Yield the readable messages by row, which is by time of writing; the file and its folder are not touched.

    After an unreadable row, the rows behind it are read from the last one backwards.

    Args:
        path: a `.db3` file, damaged or not; a journal beside it is not read.
        damage: filled in while the scan goes on; complete when it ends.

    Raises:
        RecordingError: it is no database, or what describes its topics is lost.
    """
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?immutable=1", uri=True)) as database:
            database.row_factory = sqlite3.Row
            # Without this, sqlite3 refuses a file that is shorter than its first page says.
            database.execute("PRAGMA writable_schema=ON")
            channels = _channels(database)
            yield from _rows(database, channels, damage)
    except sqlite3.Error as error:
        raise RecordingError(f"{path} cannot be read as a sqlite3 recording: {error}") from error


def _rows(database: sqlite3.Connection, channels: dict[int, StoredChannel], damage: Damage) -> Iterator[StoredMessage]:
    reached = 0
    try:
        for row in database.execute("SELECT * FROM messages ORDER BY id"):
            reached = row["id"]
            yield from _message(row, channels, damage)
        return
    except sqlite3.Error:
        pass
    behind = _LAST_ROW
    with suppress(sqlite3.Error):
        for row in database.execute("SELECT * FROM messages WHERE id > ? ORDER BY id DESC", (reached,)):
            behind = row["id"]
            yield from _message(row, channels, damage)
    if behind == _LAST_ROW:
        damage.places.append(f"rows after {reached} cannot be read")
        damage.lost_messages += 1
    else:
        damage.places.append(f"rows {reached + 1} to {behind - 1} cannot be read")
        damage.lost_messages += behind - 1 - reached


def _message(row: sqlite3.Row, channels: dict[int, StoredChannel], damage: Damage) -> Iterator[StoredMessage]:
    channel, time, data = channels.get(row["topic_id"]), row["timestamp"], row["data"]
    if channel and isinstance(time, int) and time >= 0 and isinstance(data, bytes):
        yield StoredMessage(channel, time, time, 0, data)
    else:
        damage.lost_messages += 1
        damage.places.append(f"row {row['id']} makes no sense")


def _channels(database: sqlite3.Connection) -> dict[int, StoredChannel]:
    definitions: dict[str, tuple[str, str]] = {}
    with suppress(sqlite3.Error):  # Humble has no such table
        rows = database.execute("SELECT * FROM message_definitions").fetchall()
        definitions = {row["topic_type"]: (row["encoding"], row["encoded_message_definition"]) for row in rows}
    channels = {}
    for row in map(dict, database.execute("SELECT * FROM topics")):
        if row["serialization_format"] == "cdr":
            form, definition = definitions.get(row["type"], ("", ""))
            channels[row["id"]] = StoredChannel(
                row["name"],
                row["type"],
                form,
                definition,
                qos=row.get("offered_qos_profiles", ""),
                type_hash=row.get("type_description_hash", ""),
            )
    return channels
