"""Read a whole sqlite3 recording through its index of times; the database may be damaged or hostile.

`rosbags` reads these files, too, but cannot stop a query: a changed byte makes a page of the file its own child, and a
view in place of a table has as many rows as its author likes.
"""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from deal_core.limits import limit

_STEPS = 100_000
"""Steps of a query between two calls of its watch."""
_LEAST_STEPS = 10**7
_TABLES = {
    "topics": ("id", "name", "type", "serialization_format"),
    "messages": ("id", "topic_id", "timestamp", "data"),
}
_ROW = ("rowid", "oid", "_rowid_")
_LONGEST_TEXT = 2**20


@dataclass(frozen=True)
class SqliteTopic:
    """A topic of a file: its id, name, type, and number of messages."""

    number: int
    name: str
    type: str
    count: int


class Database:
    """A sqlite3 recording, read only; a context manager that closes it.

    Args:
        path: the `.db3` file; its journal is not read.
        is_damaged: whether to read what can be read of a file that is shorter than its first page says.

    Raises:
        sqlite3.Error: the file is no recording: a table is missing, is a view, or computes its columns.
    """

    def __init__(self, path: Path, *, is_damaged: bool = False) -> None:
        self._connection = sqlite3.connect(
            f"{path.resolve().as_uri()}?immutable=1", uri=True, check_same_thread=False, isolation_level=None
        )
        self._connection.row_factory = sqlite3.Row
        # An honest query takes a few steps for each row, and a row a few bytes.
        self._most_steps = path.stat().st_size + _LEAST_STEPS
        self._left = 0
        self._connection.set_progress_handler(self._watch, _STEPS)
        try:
            for setting in (
                "trusted_schema=OFF",
                "cell_size_check=ON",
                *(["writable_schema=ON"] if is_damaged else []),
            ):
                self._connection.execute(f"PRAGMA {setting}").fetchall()
            for table, columns in _TABLES.items():
                self._check_table(table, columns)
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def rows(self, query: str, values: Sequence[object] = (), *, longest: int = 0) -> Iterator[sqlite3.Row]:
        """Yield the rows of a query.

        Args:
            query: the query.
            values: values of its question marks.
            longest: bytes of the longest text or message; longer ones are errors. Default: those of names.

        Raises:
            sqlite3.Error: the file is damaged, or the query takes more steps than the file can have rows.
        """
        if sys.version_info >= (3, 11):
            self._connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, longest or _LONGEST_TEXT)
        self._left = self._most_steps
        try:
            yield from self._connection.execute(query, values)
        except (OverflowError, MemoryError, UnicodeError) as error:
            raise sqlite3.DatabaseError(str(error) or type(error).__name__) from error

    def first(self, query: str, values: Sequence[object] = (), *, longest: int = 0) -> sqlite3.Row | None:
        """Return the first row of a query; see `rows`."""
        return next(self.rows(query, values, longest=longest), None)

    def topics(self, *, counted: bool) -> list[SqliteTopic]:
        """Return the topics of ROS 2; without `counted`, no messages are counted.

        Raises:
            sqlite3.Error: they cannot be read.
        """
        counts: dict[int, int] = {}
        if counted:
            counts = {
                row[0]: row[1] for row in self.rows("SELECT topic_id, count(timestamp) FROM messages GROUP BY topic_id")
            }
        query = "SELECT id, name, type FROM topics WHERE serialization_format = 'cdr' ORDER BY id"
        found = [SqliteTopic(row[0], row[1], row[2], counts.get(row[0], 0)) for row in self.rows(query)]
        if any(type(t.number) is not int or type(t.name) is not str or type(t.type) is not str for t in found):
            raise sqlite3.DatabaseError("a topic has no number, name or type")
        return found

    def _watch(self) -> int:
        self._left -= _STEPS
        return self._left < 0

    def _check_table(self, table: str, needed: Collection[str]) -> None:
        described = self.first("SELECT sql FROM sqlite_master WHERE type = 'table' AND name = ?", (table,))
        if described is None or not str(described[0]).upper().startswith("CREATE TABLE"):
            raise sqlite3.DatabaseError(f"it has no table '{table}'")
        columns = {str(row["name"]).lower(): row for row in self.rows(f"PRAGMA table_xinfo({table})")}
        if missing := [name for name in needed if name not in columns]:
            raise sqlite3.DatabaseError(f"its table '{table}' has no column '{missing[0]}'")
        if any(row["hidden"] for row in columns.values()) or columns.keys() & set(_ROW):
            raise sqlite3.DatabaseError(f"its table '{table}' has columns that are no recording's")


class SqliteFile:
    """A whole file; `topics` are its topics of ROS 2.

    Raises:
        sqlite3.Error: the file is damaged, or no recording.
    """

    def __init__(self, path: Path) -> None:
        self._database = Database(path)
        try:
            self.topics = self._database.topics(counted=True)
            row = self._database.first("SELECT max(timestamp) FROM messages")
        except BaseException:
            self._database.close()
            raise
        # sqlite3 would also give messages that a running recorder has added since.
        self.end_ns = row[0] if row and isinstance(row[0], int) else -1

    def messages(self, names: Collection[str]) -> Iterator[tuple[SqliteTopic, int, bytes]]:
        """Yield topic, log time and content of the messages of some topics, by log time.

        Raises:
            sqlite3.Error: the file is damaged.
        """
        topics = {topic.number: topic for topic in self.topics if topic.name in names}
        query = (
            "SELECT topic_id, timestamp, data FROM messages "
            f"WHERE topic_id IN ({','.join('?' * len(topics))}) AND timestamp <= ? ORDER BY timestamp"
        )
        left = sum(topic.count for topic in topics.values())
        rows = self._database.rows(query, [*topics, self.end_ns], longest=limit("message_bytes"))
        for number, time, data in rows:
            if not left or not isinstance(time, int) or not isinstance(data, bytes):
                raise sqlite3.DatabaseError("a row is damaged")
            left -= 1
            yield topics[number], time, data

    def close(self) -> None:
        """Close the file."""
        self._database.close()
