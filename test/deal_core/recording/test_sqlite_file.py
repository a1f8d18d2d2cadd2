"""Databases: rows as sqlite gives them, and no query without an end."""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from deal_core.recording.reader import open_recording
from deal_core.recording.repair import repair_recording
from deal_core.recording.sqlite_file import Database, SqliteFile

TOPICS = "CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT, type TEXT, serialization_format TEXT)"
MESSAGES = "CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER, timestamp INTEGER, data BLOB)"
ENDLESS = (
    "CREATE VIEW messages(id, topic_id, timestamp, data) AS WITH RECURSIVE n(i) AS "
    "(SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i, 1, i, x'00' FROM n"
)
COMPUTED = (
    "CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER, timestamp INTEGER, "
    "data BLOB AS (zeroblob(900000000)))"
)
PAGE = 512


def make(path: Path, messages: str = MESSAGES, rows: int = 0) -> Path:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(f"PRAGMA page_size={PAGE}")
        database.execute(TOPICS)
        database.execute("INSERT INTO topics VALUES(1, '/a', 'std_msgs/msg/String', 'cdr')")
        database.execute(messages)
        for row in range(rows):
            database.execute("INSERT INTO messages(topic_id, timestamp, data) VALUES(1, ?, ?)", (rows - row, bytes(50)))
    return path


def test_messages_come_by_time(tmp_path: Path) -> None:
    file = SqliteFile(make(tmp_path / "a.db3", rows=300))
    assert [(t.name, t.count) for t in file.topics] == [("/a", 300)] and file.end_ns == 300
    assert [time for _, time, _ in file.messages(["/a"])] == list(range(1, 301))
    assert list(file.messages([])) == []
    file.close()


@pytest.mark.parametrize(
    "messages", [ENDLESS, COMPUTED, MESSAGES.replace("data", "rowid"), MESSAGES.replace("id ", "i ")]
)
def test_what_is_no_table_of_messages_is_refused(tmp_path: Path, messages: str) -> None:
    with pytest.raises(sqlite3.Error, match="table 'messages'"):
        SqliteFile(make(tmp_path / "a.db3", messages))


def test_a_query_without_an_end_is_stopped(tmp_path: Path) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
    with Database(make(tmp_path / "a.db3")) as database, pytest.raises(sqlite3.Error, match="interrupted"):
        database.first(endless)


def own_child(content: bytearray) -> None:
    """Make each child of the inner pages of the tables the page itself."""
    for page in range(1, len(content) // PAGE):
        at = page * PAGE
        if content[at] == 5:
            (cells,) = struct.unpack_from(">H", content, at + 3)
            for cell in range(cells):
                (place,) = struct.unpack_from(">H", content, at + 12 + 2 * cell)
                struct.pack_into(">I", content, at + place, page + 1)
            struct.pack_into(">I", content, at + 8, page + 1)


@pytest.mark.parametrize("damage", [own_child, lambda content: content.__delitem__(slice(len(content) // 2, None))])
def test_a_damaged_file_is_read_and_repaired_to_an_end(tmp_path: Path, damage: Callable[[bytearray], Any]) -> None:
    file = make(tmp_path / "a.db3", rows=300)
    content = bytearray(file.read_bytes())
    damage(content)
    file.write_bytes(content)
    for use in (lambda: [*open_recording(file).messages(["/a"])], lambda: repair_recording(file, tmp_path / "out")):
        try:
            use()
        except Exception as error:
            assert type(error).__name__ == "RecordingError"
