"""JSON and YAML from files of others: read within limits, and all that is wrong with them is one kind of error.

`json` and `yaml` raise errors of a dozen kinds, some without end: on deep nesting, on numbers with thousands of digits,
on dates that do not exist. They also read nan, numbers that are infinite, and aliases that stand for gigabytes.
"""

from __future__ import annotations

import codecs
import io
import json
import logging
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from deal_core.errors import short
from deal_core.files import decoded, read_text
from deal_core.limits import limit, open_file, read_bytes, refuse_over

_ODD_PARTS = ("NaN", "Infinity", "\\ud", "\\uD")
_EXPONENT = re.compile(r"[eE]\+?\d{3}")
_AS_ZEROS = bytes(ord("0") if chr(letter) in "0123456789" else ord(" ") for letter in range(256))
_STRING = re.compile('"[^"]*"')  # of a text without escaped quotes
_SPACE = re.compile(r"[ \t\r\n]*")
_PIECE = 2**20
_TOLD_EVERY = 10**8  # bytes, which take some seconds
_log = logging.getLogger(__name__)
_MARKS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
_BYTES_OF = {"[": 88, "{": 184, ",": 41, ":": 140}
"""Memory that the part of a JSON text behind each of these letters takes at most as a Python object, without texts."""
_LONGEST = 200


class FormatError(ValueError):
    """A text that is no JSON or YAML, or exceeds a limit; the message is one short line."""


def read_json(path: Path, name: str = "text_bytes", *, finite: bool = True) -> Any:
    """Return the content of a JSON file; see `parse_json`.

    Args:
        path: the file.
        name: limit of its length.
        finite: whether nan and infinite numbers are errors.

    Raises:
        OSError: it cannot be read, is no regular file, or exceeds the limit.
        ValueError: it is no UTF-8, or no JSON (`FormatError`).
    """
    return parse_json(decoded(read_bytes(path, name)), finite=finite)


def parse_json(text: str, *, finite: bool = True) -> Any:
    """Return the value of a JSON text.

    Args:
        text: the text.
        finite: whether nan and infinite numbers are errors.

    Raises:
        FormatError: the text is no JSON, is nested too deep, would take too much memory, or has a number of more than
            64 bits.

    >>> parse_json('{"mug": 1}')
    {'mug': 1}
    """
    _refuse_bomb(text)
    # The checks of each number take time, and nearly no file has numbers that need them.
    options: dict[str, Any] = {}
    if _is_odd(text):
        options = {"parse_int": _whole, "parse_float": _finite if finite else float}
        if finite:
            options["parse_constant"] = _refuse_constant
    try:
        value = json.loads(text, **options)
    except RecursionError:
        raise FormatError("its lists are nested too deep") from None
    except FormatError:
        raise
    except ValueError as error:
        raise FormatError(f"no JSON: {str(error)[:_LONGEST]}") from None
    if options and not _is_text(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise FormatError("no JSON: a text with half a character (\\ud800 to \\udfff)") from None
    return value


class Span(NamedTuple):
    """Where a value is in a file: its first byte, and its length in bytes."""

    start: int
    length: int


@dataclass(frozen=True)
class LargeJson:
    """A JSON file that is read value by value, so that one value at a time is in memory.

    Args:
        path: the file.
        encoding: utf-8, utf-16-le or utf-16-be, by its byte order mark.
        state: size and time of change; a file that changes afterwards is not read.
    """

    path: Path
    encoding: str
    state: tuple[int, int]

    @classmethod
    def read_lists(
        cls, path: Path, entries: Mapping[str, Callable[[Any, Span], None]], name: str
    ) -> tuple[LargeJson, set[str]]:
        """Read lists in the object of a file entry by entry.

        Args:
            path: the file.
            entries: function to call with each entry of a list and its place, by the key of the list; the values of
                other keys are skipped.
            name: limit of the length of the file.

        Returns:
            The file, and the keys of the lists that it has.

        Raises:
            OSError: it cannot be read, is no regular file, or exceeds the limit.
            ValueError: it is no UTF-8, or no JSON (`FormatError`); entries before the error have been read.
        """
        found: set[str] = set()
        with open_file(path, name) as file:
            status = os.fstat(file.fileno())
            text = _TextWindow(file, path, status.st_size)
            is_last = not text.takes("{")
            if is_last:
                text.value()
            else:
                is_last = text.takes("}")
            while not is_last:
                key, _ = text.value()
                if not isinstance(key, str) or key in found:
                    raise FormatError(f"no JSON: expected a key that occurs once, found {short(key)}")
                text.require(":")
                if key in entries and text.takes("["):
                    found.add(key)
                    is_end = text.takes("]")
                    while not is_end:
                        entries[key](*text.value())
                        is_end = text.takes("]") or text.require(",")
                else:
                    text.value()
                is_last = text.takes("}") or text.require(",")
            text.require_end()
        return cls(path, text.encoding, (status.st_size, status.st_mtime_ns)), found

    def value(self, span: Span) -> Any:
        """Return the value at a place.

        Raises:
            OSError: the file cannot be read, or has changed.
            ValueError: as `parse_json`.
        """
        with self.path.open("rb") as file:
            status = os.fstat(file.fileno())
            if (status.st_size, status.st_mtime_ns) != self.state:
                raise OSError("it has changed since it was opened")
            file.seek(span.start)
            return parse_json(file.read(span.length).decode(self.encoding))


def read_yaml(path: Path) -> Any:
    """Return the content of a YAML file; see `parse_yaml`.

    Raises:
        OSError: it cannot be read, or is no regular file.
        ValueError: it is in another encoding, or no YAML (`FormatError`).
    """
    return parse_yaml(read_text(path))


def parse_yaml(text: str) -> Any:
    """Return the value of a YAML text: null, texts, numbers, dates, lists and mappings.

    Raises:
        FormatError: the text is no YAML, names a key twice, has a number that is not finite or of more than 64 bits, or
            is too long, too deep or has too many values, each alias counted as what it stands for.

    >>> parse_yaml("{mug: 1, drill: [a, b]}")
    {'mug': 1, 'drill': ['a', 'b']}
    """
    refuse_over("yaml_bytes", len(text), "characters", FormatError)
    try:
        return yaml.load(text, _Loader)
    except FormatError:
        raise
    except RecursionError:
        raise FormatError("its lists are nested too deep") from None
    except yaml.MarkedYAMLError as error:
        place = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        problem = error.problem or error.context or "unreadable"
        raise FormatError(f"not valid YAML: {problem[:_LONGEST]}{place}") from None
    except (yaml.YAMLError, ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError) as error:
        raise FormatError(f"not valid YAML: {str(error)[:_LONGEST]}") from None


def compose_yaml(text: str) -> yaml.Node | None:
    """Return the nodes of a YAML text, whose scalars are still texts; raise `FormatError` as `parse_yaml` does."""
    refuse_over("yaml_bytes", len(text), "characters", FormatError)
    try:
        return yaml.compose(text, _Bounded)
    except RecursionError:
        raise FormatError("its lists are nested too deep") from None
    except FormatError:
        raise
    except (yaml.YAMLError, ValueError) as error:
        raise FormatError(f"not valid YAML: {' '.join(str(error)[:_LONGEST].split())}") from None


def _is_text(text: str) -> bool:
    return "\\u" not in text


def _refuse_bomb(text: str) -> None:
    """Raise `FormatError` if a JSON text is nested too deep, or would take too much memory; letters of texts count."""
    if _memory(text) > limit("json_memory") or _depth(text) > limit("nesting"):
        bare = _STRING.sub("", text.replace("\\\\", "").replace('\\"', ""))
        refuse_over("json_memory", _memory(bare), "bytes of memory for its lists and numbers", FormatError)
        refuse_over("nesting", _depth(bare), "lists inside one another", FormatError)


def _is_odd(text: str) -> bool:
    """Return whether a JSON text may have a number of too many digits, one that is not finite, or half a character."""
    if any(part in text for part in _ODD_PARTS) or _EXPONENT.search(text):
        return True
    return b"0" * 19 in text.encode("ascii", "replace").translate(_AS_ZEROS)


def _memory(text: str) -> int:
    return sum(size * text.count(letter) for letter, size in _BYTES_OF.items())


def _depth(text: str) -> int:
    """Return at least how deep the lists and objects of a JSON text are nested; brackets in texts count, too."""
    deepest = now = 0
    for at in range(0, len(text), _PIECE):
        letters = np.frombuffer(text[at : at + _PIECE].encode("ascii", "replace"), np.uint8)
        steps = np.isin(letters, (0x5B, 0x7B)).astype(np.int32) - np.isin(letters, (0x5D, 0x7D)).astype(np.int32)
        levels = np.cumsum(steps) + now
        if levels.size:
            deepest, now = max(deepest, int(levels.max())), int(levels[-1])
    return deepest


def _whole(text: str) -> int:
    if len(text) > 20 or not -(2**63) <= (value := int(text)) < 2**64:
        raise FormatError(f"a whole number of {len(text.lstrip('-'))} digits, expected at most 64 bits")
    return value


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise FormatError(f"expected a finite number, found {text[:40]}")
    return value


def _refuse_constant(name: str) -> float:
    raise FormatError(f"expected a finite number, found {name}")


class _TextWindow:
    """A part of a JSON file, from the value that is read next; it gets longer where a value needs it."""

    def __init__(self, file: io.BufferedReader, path: Path, size: int) -> None:
        self._path, self._size, self._next_told = path, size, _TOLD_EVERY
        mark = file.peek(3)
        found = next((entry for entry in _MARKS.items() if mark.startswith(entry[0])), (b"", "utf-8"))
        file.seek(len(found[0]))
        self.encoding = found[1]
        self._file = file
        self._coder = codecs.getincrementaldecoder(self.encoding)()
        self._decoder = json.JSONDecoder()
        self._text, self._at, self._is_whole = "", 0, False
        self._is_odd, self._deepest = False, limit("nesting")
        self._known = (0, len(found[0]))  # an index in the window, and its byte in the file

    def takes(self, letter: str) -> bool:
        """Step over a letter, with the space before it, if it comes next; return whether it did."""
        self._skip_space()
        is_next = self._text.startswith(letter, self._at)
        self._at += is_next
        return is_next

    def require(self, letter: str) -> bool:
        """Step over a letter; raise `FormatError` if another comes next. Returns False, for conditions of loops."""
        if not self.takes(letter):
            raise FormatError(f"no JSON: expected '{letter}', found {short(self._text[self._at : self._at + 40])}")
        return False

    def require_end(self) -> None:
        """Raise `FormatError` if anything follows."""
        self._skip_space()
        if self._at < len(self._text):
            raise FormatError("no JSON: something follows its end")

    def value(self) -> tuple[Any, Span]:
        """Return the value that comes next, as `parse_json` does, and its place."""
        self._skip_space()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except RecursionError:
                raise FormatError("its lists are nested too deep") from None
            except ValueError as error:
                if self._is_whole:
                    raise FormatError(f"no JSON: {str(error)[:_LONGEST]}") from None
                self._read_on()
                continue
            # A number may go on behind the window, as in 0.5e-3, of which 0.5e- is no number.
            if end + 2 < len(self._text) or self._is_whole:
                break
            self._read_on()
        lists = self._text.count("[", self._at, end) + self._text.count("{", self._at, end)
        if self._is_odd or lists > self._deepest:
            value = parse_json(self._text[self._at : end])
        start = self._byte()
        self._at = end
        return value, Span(start, self._byte() - start)

    def _skip_space(self) -> None:
        while True:
            space = _SPACE.match(self._text, self._at)
            self._at = space.end() if space else self._at
            if self._at < len(self._text) or self._is_whole:
                return
            self._read_on()

    def _byte(self) -> int:
        """Return the byte of the file where the next value is."""
        index, byte = self._known
        is_plain = self.encoding == "utf-8" and self._text.isascii()
        byte += self._at - index if is_plain else len(self._text[index : self._at].encode(self.encoding))
        self._known = (self._at, byte)
        return byte

    def _read_on(self) -> None:
        """Make the window longer, twice as long where all of it belongs to one value."""
        rest, self._known = self._text[self._at :], (0, self._byte())
        more = self._file.read(max(_PIECE, len(rest)))
        self._text, self._at, self._is_whole = rest + self._coder.decode(more, final=not more), 0, not more
        self._is_odd = _is_odd(self._text)
        if self._file.tell() >= self._next_told:
            self._next_told += _TOLD_EVERY
            _log.warning("%s: %d of %d MB read", self._path, self._file.tell() // 10**6, self._size // 10**6)
        if len(self._text) > 2 * _PIECE:
            refuse_over("text_bytes", len(rest), "letters of one value", FormatError)
            _refuse_bomb(self._text)


class _Bounded(yaml.SafeLoader):
    """Count the values and their nesting while they are read, and refuse what is too much."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._nesting = 0
        self._sizes: dict[int, tuple[int, int]] = {}  # values and characters of a node, with aliases written out
        self._found = [(0, 0)]

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._nesting += 1
        refuse_over("nesting", self._nesting, "lists inside one another", FormatError)
        self._found.append((1, 0))
        node = super().compose_node(parent, index)
        size = self._found.pop()
        if node is not None:
            if not isinstance(node, yaml.ScalarNode) and node.end_mark is None:
                raise FormatError("not valid YAML: an alias inside of what it stands for")
            length = len(node.value) if isinstance(node, yaml.ScalarNode) else 0
            size = self._sizes.setdefault(id(node), (size[0], size[1] + length))
        values, letters = (a + b for a, b in zip(self._found[-1], size, strict=True))
        refuse_over("yaml_values", values, "values, with each alias written out,", FormatError)
        refuse_over("yaml_bytes", letters, "characters, with each alias written out,", FormatError)
        self._found[-1] = (values, letters)
        self._nesting -= 1
        return node


class _Loader(_Bounded):
    """Refuse a key that is twice in a mapping, of which YAML takes the last, and numbers that nothing can use."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        keys = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in keys:
                    raise yaml.composer.ComposerError(None, None, f"{short(key.value)} appears twice", key.start_mark)
                keys.add(key.value)
        return node

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        if len(node.value) > 80:
            raise FormatError(f"a whole number of {len(node.value)} digits, expected at most 64 bits")
        value = int(super().construct_yaml_int(node))
        if not -(2**63) <= value < 2**64:
            raise FormatError(f"a whole number of {len(node.value)} digits, expected at most 64 bits")
        return value

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        if not math.isfinite(value := float(super().construct_yaml_float(node))):
            raise FormatError(f"expected a finite number, found {node.value[:40]}")
        return value


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_yaml_float)
