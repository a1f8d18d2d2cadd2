"""Single keys from the terminal that a node runs in."""

from __future__ import annotations

import os
import select
import sys
import termios
import threading
import tty
from collections.abc import Callable
from queue import SimpleQueue

from rclpy.node import Node


class Keyboard:
    """Hear keys without Enter, until `close`; then the terminal is as it was.

    Ctrl-C and Ctrl-Z work as ever. Keys that are more than one byte (arrows, letters beyond ASCII) break over slow
    lines and are not heard.

    Args:
        node: its executor calls `on_key`.
        on_key: called with each printable character.
    """

    def __init__(self, node: Node, on_key: Callable[[str], None]) -> None:
        self._node, self._on_key = node, on_key
        self._keys: SimpleQueue[str] = SimpleQueue()
        self._guard = node.create_guard_condition(self._hand_over)
        self._terminal = sys.stdin.fileno()
        self._before = termios.tcgetattr(self._terminal)
        self._stop, self._wake = os.pipe()
        tty.setcbreak(self._terminal)
        self._thread = threading.Thread(target=self._listen, name="keyboard", daemon=True)
        self._thread.start()

    @staticmethod
    def is_there() -> bool:
        """Say whether this process is the one that a terminal's keys go to."""
        try:
            return sys.stdin.isatty() and os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
        except (AttributeError, OSError, ValueError):  # no stdin, or a closed one
            return False

    def close(self) -> None:
        """Stop listening and give the terminal back."""
        os.write(self._wake, b"x")
        self._thread.join()
        self._node.destroy_guard_condition(self._guard)
        termios.tcsetattr(self._terminal, termios.TCSADRAIN, self._before)
        os.close(self._stop)
        os.close(self._wake)

    def _listen(self) -> None:
        while True:
            ready, _, _ = select.select([self._terminal, self._stop], [], [])
            if self._stop in ready:
                return
            try:
                typed = os.read(self._terminal, 64)
            except OSError:  # the terminal was closed
                return
            if not typed:
                return
            for key in typed.decode("ascii", "ignore"):
                if key.isprintable():
                    self._keys.put(key)
            self._guard.trigger()

    def _hand_over(self) -> None:
        while not self._keys.empty():
            self._on_key(self._keys.get())
