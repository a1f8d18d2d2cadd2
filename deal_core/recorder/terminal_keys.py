"""Read single keys from the terminal of the program."""

from __future__ import annotations

import os
import select
import sys
import termios
import threading
import tty
from collections.abc import Callable


class TerminalKeys:
    """Read keys without Enter until `close`, which restores the terminal.

    Ctrl-C and Ctrl-Z work as usual. Keys of more than one byte (arrows, letters beyond ASCII) may arrive in parts and
    are ignored.

    Args:
        on_key: called with each printable character, in a separate thread.
    """

    def __init__(self, on_key: Callable[[str], object]) -> None:
        self._on_key = on_key
        self._terminal = sys.stdin.fileno()
        self._before = termios.tcgetattr(self._terminal)
        self._stop, self._wake = os.pipe()
        tty.setcbreak(self._terminal)
        self._thread = threading.Thread(target=self._listen, name="keyboard", daemon=True)
        self._thread.start()

    @staticmethod
    def is_there() -> bool:
        """Return whether the terminal sends its keys to this process."""
        try:
            return sys.stdin.isatty() and os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
        except (AttributeError, OSError, ValueError):  # no stdin, or a closed one
            return False

    def close(self) -> None:
        """Stop listening and restore the terminal."""
        os.write(self._wake, b"x")
        self._thread.join()
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
                    self._on_key(key)
