"""Read a damaged sqlite3 recording row by row, without its index of times."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

from deal_core.errors import RecordingError
from deal_core.limits import limit
from deal_core.recording.sqlite_file import Database
from deal_core.recording.stored_message import Damage, StoredChannel, StoredMessage

_JOURNALS = ("-wal", "-journal")
_LAST_ROW = 2**63 - 1
_FORWARDS, _BACKWARDS = "rowid > ? ORDER BY rowid", "rowid < ? ORDER BY rowid DESC"


def journal(path: Path) -> Path | None:
    """Return the journal that a killed recorder left beside a `.db3`; None without one."""
    files = (path.with_name(path.name + suffix) for suffix in _JOURNALS)
    return next((file for file in files if file.is_file() and file.stat().st_size), None)


def copy_with_journal(path: Path, folder: Path) -> Path:
    """Copy a `.db3` and its journals to a folder and let sqlite3 merge them; return the copy.

    Raises:
        OSError: a file cannot be copied.
    """
    for file in (path, *(path.with_name(path.name + suffix) for suffix in _JOURNALS)):
        if file.is_file():
            shutil.copyfile(file, folder / file.name)
    copy = folder / path.name
    with suppress(sqlite3.DatabaseError), closing(sqlite3.connect(copy)) as database:
        # Reading rolls a journal back; the checkpoint merges a write-ahead log. A damaged one is not changed.
        database.execute("SELECT count(*) FROM sqlite_master").fetchone()
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    return copy


def scan_sqlite(path: Path, damage: Damage) -> Iterator[StoredMessage]:
    """Yield the readable messages by row, the order of writing; the file and its folder do not change.

    After an unreadable row, the remaining rows are read backwards from the last one.

    Args:
        path: `.db3` file, damaged or not; its journal is not read.
        damage: filled in during the scan.

    Raises:
        RecordingError: the file is not a database, or the description of its topics is lost.
    """
    try:
        with Database(path, is_damaged=True) as database:
            yield from _rows(database, _channels(database), damage)
    except sqlite3.Error as error:
        raise RecordingError(f"{path} cannot be read as a sqlite3 recording: {error}") from error


def _rows(database: Database, channels: dict[int, StoredChannel], damage: Damage) -> Iterator[StoredMessage]:
    reached, behind = 0, _LAST_ROW
    lost: list[tuple[int, int]] = []  # first and last of neighbouring rows
    try:
        for reached, row in _walk(database, _FORWARDS, 0):
            if message := _message(row, channels):
                yield message
            else:
                _lose(lost, reached)
    except sqlite3.Error:
        with suppress(sqlite3.Error):
            for number, row in _walk(database, _BACKWARDS, behind):
                if number <= reached:
                    break
                behind = number
                if message := _message(row, channels):
                    yield message
                else:
                    _lose(lost, number)
        if behind == _LAST_ROW:
            damage.lost_messages += 1
            damage.places.append(f"rows after {reached} cannot be read")
        elif behind > reached + 1:
            lost.append((reached + 1, behind - 1))
    for first, last in sorted(lost):
        damage.lost_messages += last - first + 1
        damage.places.append(f"row{f's {first} to' if first < last else ''} {last} cannot be read")


def _walk(database: Database, where: str, number: int) -> Iterator[tuple[int, sqlite3.Row | None]]:
    """Yield the number and content of each row, None if the content cannot be read.

    Raises:
        sqlite3.Error: the number of the next row cannot be read, or is not next in order, as where pages are damaged.
    """
    longest = limit("message_bytes")
    while True:
        # One query for each row: a cursor reads ahead, and would lose the row before a damaged one.
        query = f"FROM messages WHERE {where} LIMIT 1"
        try:
            row = database.first(f"SELECT rowid, topic_id, timestamp, data {query}", (number,), longest=longest)
            found = row
        except sqlite3.Error:
            row, found = None, database.first(f"SELECT rowid {query}", (number,))
        if found is None:
            return
        if (found[0] > number) != (where == _FORWARDS) or found[0] == number:
            raise sqlite3.DatabaseError("the rows are not in order")
        number = found[0]
        yield number, row


def _message(row: sqlite3.Row | None, channels: dict[int, StoredChannel]) -> StoredMessage | None:
    """Return the message of a row; None if it is unreadable or invalid."""
    if row is None or not (channel := channels.get(row["topic_id"])):
        return None
    time, data = row["timestamp"], row["data"]
    if not isinstance(time, int) or time < 0 or not isinstance(data, bytes):
        return None
    return StoredMessage(channel, time, time, 0, data)


def _lose(lost: list[tuple[int, int]], number: int) -> None:
    if lost and number in (lost[-1][0] - 1, lost[-1][1] + 1):
        lost[-1] = (min(number, lost[-1][0]), max(number, lost[-1][1]))
    else:
        lost.append((number, number))


def _channels(database: Database) -> dict[int, StoredChannel]:
    definitions: dict[str, tuple[str, str]] = {}
    with suppress(sqlite3.Error):  # Humble has no such table
        query = "SELECT topic_type, encoding, encoded_message_definition FROM message_definitions"
        definitions = {row[0]: (row[1], row[2]) for row in database.rows(query) if all(type(v) is str for v in row)}
    more: dict[int, dict[str, str]] = {}
    with suppress(sqlite3.Error):  # not in every version of the format
        for row in database.rows("SELECT * FROM topics"):
            more[row["id"]] = {name: row[name] for name in row.keys() if type(row[name]) is str}  # noqa: SIM118
    return {
        topic.number: StoredChannel(
            topic.name,
            topic.type,
            *definitions.get(topic.type, ("", "")),
            qos=more.get(topic.number, {}).get("offered_qos_profiles", ""),
            type_hash=more.get(topic.number, {}).get("type_description_hash", ""),
        )
        for topic in database.topics(counted=False)
    }
