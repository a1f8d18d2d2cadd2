"""Single keys from the terminal that a node runs in."""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue

from rclpy.node import Node

from deal_core.terminal_keys import TerminalKeys


class Keyboard:
    """Hear keys without Enter, see `TerminalKeys`, until `close`.

    Args:
        node: its executor calls `on_key`.
        on_key: called with each printable character.
    """

    def __init__(self, node: Node, on_key: Callable[[str], None]) -> None:
        self._node, self._on_key = node, on_key
        self._pressed: SimpleQueue[str] = SimpleQueue()
        self._guard = node.create_guard_condition(self._hand_over)
        self._terminal = TerminalKeys(self._take)

    def close(self) -> None:
        """Stop listening and give the terminal back."""
        self._terminal.close()
        self._node.destroy_guard_condition(self._guard)

    def _take(self, key: str) -> None:
        self._pressed.put(key)
        self._guard.trigger()

    def _hand_over(self) -> None:
        while not self._pressed.empty():
            self._on_key(self._pressed.get())
