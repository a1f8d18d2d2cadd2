"""Connections of a page: how many there may be, and how long a request may take."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

CONNECTIONS = 256
"""Number of connections at a time; others are refused, so that files can still be opened."""
REQUEST_S = 30.0
"""Time in which a request must arrive and its answer must be read, seconds."""


class LimitedConnection(H11Protocol):
    """A connection that ends if a request, or the reading of its answer, takes too long.

    uvicorn itself ends connections only between requests.
    """

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin the time of the first request."""
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS:
            transport.abort()
        self._begin()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the time."""
        self._end()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Begin the time of a further request."""
        if self._deadline is None:
            self._begin()
        super().data_received(data)

    def on_response_complete(self) -> None:
        """End the time of a request; one that has arrived already begins."""
        self._end()
        super().on_response_complete()
        if self.transport.is_closing() or not self.cycle.response_complete:
            self._begin()  # until everything was read, too

    def _begin(self) -> None:
        self._end()
        self._deadline = self.loop.call_later(REQUEST_S, self.transport.abort)

    def _end(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
