"""Change the bytes of a file, let its reader open it, and see what comes out: a result, an error, or a fault.

A fault is a foreign exception, more than `MEMORY_BYTES` of memory, or more than `SECONDS` of computing for one input.
"""

from __future__ import annotations

import random
import re
import resource
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deal_core.errors import DealError

MEMORY_BYTES = 10**9
SECONDS = 30.0
_ALLOWED_BYTES = 4 * 10**9  # of addresses, so that a bomb fails and does not fill the machine
_LARGEST = 2**12  # bytes that a mutation adds at most

_NUMBERS = (
    0,
    1,
    2,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0x8000,
    0xFFFF,
    2**24,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63 - 1,
    2**63,
    2**64 - 1,
)
_TEXTS = (
    *(b"0", b"-1", b"1e999", b"-1e999", b"NaN", b"Infinity", b"-Infinity", b".nan", b".inf", b"-2147483648"),
    *(b"4294967296", b"9" * 400, b"-" + b"9" * 400, b"9" * 5000, b"0." + b"1" * 400, b"1e400", b"true", b"null"),
    *(
        b'""',
        b"[]",
        b"{}",
        b'"\\ud800"',
        b'"\\u0000"',
        b"\xff\xfe",
        b"\x00",
        b"\x1b[31m",
        b'"../../x"',
        b'"/etc/passwd"',
    ),
    *(
        b'"' + b"n" * 300 + b'"',
        b"~",
        b"!!python/name:os.system ",
        b"!!int x",
        b"&a ",
        b"*a",
        b"<<: *a\n",
        b"2001-99-99",
    ),
    *(b"[" * 200, b"[" * 5000, b'{"a":' * 2000, b"- " * 2000, b"? " * 300, b"1:" * 300 + b"1", b"\n", b",", b":", b" "),
)
_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
_VALUE = re.compile(rb'"[^"\n]{0,80}"|-?\d+(?:\.\d+)?|\[[^\[\]]{0,200}\]|\{[^{}]{0,200}\}|true|false|null')


@dataclass(frozen=True)
class Target:
    """A file and what opens it.

    Args:
        file: the file that is changed.
        read: opens it; whatever it returns counts as read.
        seeds: contents to start from; default: the content of the file.
        text: whether the content is text, whose numbers and values are replaced by odd ones.
        mend: makes a changed content pass its own checksums, so that the part behind them is reached.
    """

    file: Path
    read: Callable[[], object]
    seeds: Sequence[bytes] = ()
    text: bool = False
    mend: Callable[[bytes], bytes] | None = None


@dataclass
class Outcome:
    """What a run found.

    Attributes:
        tried, read, refused: number of inputs; of those that were read; and of those that ended in an error of the
            project.
        foreign, large, slow: faults: a description and the input that showed it first, by the place in the code.
        counts: number of foreign exceptions by place.
        seconds: time of computing for all inputs.
        most_bytes, most_seconds: largest memory and time for one input.
    """

    tried: int = 0
    read: int = 0
    refused: int = 0
    foreign: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    large: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    slow: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    most_bytes: int = 0
    most_seconds: float = 0.0

    @property
    def faults(self) -> dict[str, tuple[str, bytes]]:
        """All faults."""
        return {**self.foreign, **self.large, **self.slow}


class OverTimeError(BaseException):
    """An input computed longer than `SECONDS`; no reader may catch it."""


def fuzz(target: Target, *, count: int = 0, seconds: float = 0.0, seed: int = 0) -> Outcome:
    """Try the seeds as they are, then `count` changed inputs, or as many as `seconds` allow."""
    seeds = list(target.seeds) or [target.file.read_bytes()]
    outcome = Outcome()
    end = time.monotonic() + seconds
    with limited():
        for number, content in enumerate(_inputs(target, seeds, random.Random(seed))):
            if number >= len(seeds) and (number >= count if not seconds else time.monotonic() >= end):
                return outcome
            try_one(target, content, outcome)
    return outcome


def try_one(target: Target, content: bytes, outcome: Outcome) -> None:
    """Let the reader open one content, and count what it does."""
    target.file.write_bytes(content)
    before = _reset_peak()
    begin = time.process_time()
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    where = "?"
    try:
        target.read()
        outcome.read += 1
    except DealError as error:
        outcome.refused += 1
        where = _place(error)
        if len(str(error)) > 4000:
            outcome.foreign.setdefault(f"long message at {where}", (f"{len(str(error))} characters", content))
    except OverTimeError as error:
        where = _place(error)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        where = f"{type(error).__name__} at {_place(error)}"
        outcome.counts[where] += 1
        outcome.foreign.setdefault(where, (f"{type(error).__name__}: {str(error)[:200]}", content))
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    used, took = _peak() - before, time.process_time() - begin
    outcome.tried += 1
    outcome.seconds += took
    outcome.most_bytes, outcome.most_seconds = max(outcome.most_bytes, used), max(outcome.most_seconds, took)
    if used > MEMORY_BYTES:
        outcome.large.setdefault(where, (f"{used / 1e9:.1f} GB", content))
    if took >= SECONDS:
        outcome.slow.setdefault(where, (f"{took:.0f} s", content))


def _inputs(target: Target, seeds: Sequence[bytes], rng: random.Random) -> Iterator[bytes]:
    yield from seeds
    while True:
        content = mutated(rng.choice(seeds), seeds, rng, text=target.text)
        if target.mend and rng.random() < 0.8:
            with suppress(Exception):  # nothing that can be mended is left
                content = target.mend(content)
        yield content


def mutated(content: bytes, seeds: Sequence[bytes], rng: random.Random, *, text: bool = False) -> bytes:
    """Return the content with one to four changes."""
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        change = rng.choice(_TEXT_CHANGES if text and rng.random() < 0.7 else _CHANGES)
        content = change(content, rng, seeds)
    return content


def _flip(content: bytes, rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    data = bytearray(content or b"\0")
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        data[_at(data, rng)] ^= 1 << rng.randrange(8)
    return bytes(data)


def _number(content: bytes, rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    width = rng.choice((1, 2, 4, 8))
    value = rng.choice(_NUMBERS) & (2 ** (8 * width) - 1)
    at = _at(content, rng)
    return content[:at] + value.to_bytes(width, rng.choice(("little", "big"))) + content[at + width :]


def _cut(content: bytes, rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def _drop(content: bytes, rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    at = _at(content, rng)
    return content[:at] + content[at + rng.choice((1, 2, 4, 16, 256)) :]


def _repeat(content: bytes, rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    at = _at(content, rng)
    part = content[at : at + rng.choice((1, 4, 16, 64, 256))]
    times = min(rng.choice((1, 2, 16, 1000)), _LARGEST // max(len(part), 1))
    return content[:at] + part * times + content[at:]


def _splice(content: bytes, rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    other = rng.choice(seeds)
    at = _at(other, rng)
    return content[: _at(content, rng)] + other[at : at + rng.choice((8, 64, 4096))]


def _insert(content: bytes, rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    at = _at(content, rng)
    return content[:at] + rng.choice(_TEXTS) + content[at:]


def _zeros(content: bytes, rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    at, length = _at(content, rng), rng.choice((4, 64, 4096))
    return content[:at] + rng.choice((b"\0", b"\xff")) * min(length, len(content) - at) + content[at + length :]


def _text_value(content: bytes, rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    found = list(_VALUE.finditer(content[:_LARGEST]))
    if not found:
        return _insert(content, rng, seeds)
    chosen = rng.choice(found)
    new = rng.choice((*_TEXTS, rng.choice(found).group()))
    return content[: chosen.start()] + new + content[chosen.end() :]


def _text_number(content: bytes, rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    found = list(_NUMBER.finditer(content[:_LARGEST]))
    if not found:
        return _insert(content, rng, seeds)
    chosen = rng.choice(found)
    return content[: chosen.start()] + rng.choice(_TEXTS[:18]) + content[chosen.end() :]


def _line(content: bytes, rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    lines = content.split(b"\n")
    at = rng.randrange(len(lines))
    if rng.random() < 0.5:
        return b"\n".join(lines[:at] + lines[at + 1 :])
    return b"\n".join([*lines[:at], lines[at], *lines[at:]])


_CHANGES: tuple[Callable[..., bytes], ...] = (
    _flip,
    _flip,
    _number,
    _number,
    _cut,
    _drop,
    _repeat,
    _splice,
    _insert,
    _zeros,
)
_TEXT_CHANGES: tuple[Callable[..., bytes], ...] = (_text_value, _text_value, _text_number, _line, _insert)


def _at(content: bytes | bytearray, rng: random.Random) -> int:
    """Return a place, as often near the beginning, where most formats keep their sizes, as anywhere."""
    length = len(content)
    return rng.randrange(min(length, rng.choice((64, 512, length))) or 1) if length else 0


def _place(error: BaseException) -> str:
    """Return the last place in the project's own code that an error went through."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "/deal_core/" in f.filename or "/deal_ros/" in f.filename or "/training/" in f.filename]
    last = own[-1] if own else frames[-1] if frames else None
    return f"{last.filename.rpartition('/deal_')[2]}:{last.lineno} {last.name}" if last else "?"


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    return 0


def _reset_peak() -> int:
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS:")


def _peak() -> int:
    return _status("VmHWM:")


@contextmanager
def limited() -> Iterator[None]:
    """Limit the addresses of this process, and let the timer of computing raise `OverTimeError`."""

    def stop(*_: Any) -> None:
        raise OverTimeError

    before = signal.signal(signal.SIGVTALRM, stop)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_status("VmSize:") + _ALLOWED_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGVTALRM, before)
