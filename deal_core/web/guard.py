"""Refuse requests of strangers before their bodies are read: other origins, other content, wrong tokens."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from urllib.parse import urlsplit

from fastapi import Request
from fastapi.responses import PlainTextResponse
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

GUESSES, GUESS_PERIOD_S = 10, 60.0
"""Number of wrong tokens that an address may bring within a time; it must then wait."""
_ADDRESSES = 1024  # that brought wrong tokens are remembered

_HEADERS = {
    "Content-Security-Policy": "frame-ancestors 'none'",  # the pages name the rest
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class OwnPageOnly:
    """Middleware that answers the page itself and programs, but no page of another origin.

    A browser says whose page sends a request: with `Origin` for each that may change something, and with
    `Sec-Fetch-Site` for all to this machine. Of other pages only a link to the page is followed. A body has to be
    JSON, which a browser sends to another origin only after it has asked, and nobody answers that.

    Args:
        app: the application behind it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        request = Request(scope)
        if not _is_own(request):
            answer = _refusal("A page of another origin cannot use this one.", 403)
        elif request.method == "POST" and not _is_json(request):
            answer = _refusal("Expected a body of the type application/json.", 415)
        else:
            return await self._app(scope, receive, send_with_headers)
        await answer(scope, receive, send_with_headers)


class TokenRequired:
    """Middleware that answers requests whose address contains the token, and those with the cookie that it sets then.

    Args:
        app: the application behind it.
        token: the token.
        now_s: monotonic clock, seconds.
    """

    def __init__(self, app: ASGIApp, token: str, now_s: Callable[[], float] = time.monotonic) -> None:
        self._app = app
        self._token = token.encode()
        # Browsers share cookies between the ports of a machine: each page needs a separate name. It has no token in it.
        self._value = hashlib.sha256(b"deal cookie " + self._token).hexdigest()
        self._cookie = f"deal_{hashlib.sha256(self._value.encode()).hexdigest()[:12]}"
        self._guesses = _Guesses(now_s)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        request = Request(scope)
        found, cookie = request.query_params.get("token"), request.cookies.get(self._cookie)
        client = request.client.host if request.client else ""
        if found is None and cookie is None:
            answer = _refusal("Open the complete address that was printed, including its token.", 401)
        elif cookie is not None and hmac.compare_digest(cookie.encode(), self._value.encode()):
            return await self._app(scope, receive, send)
        elif self._guesses.is_over(client):
            answer = _refusal(f"Too many wrong tokens: wait {GUESS_PERIOD_S:.0f} s.", 429)
        elif found is not None and hmac.compare_digest(found.encode(), self._token):
            return await self._app(scope, receive, self._with_cookie(send))
        else:
            self._guesses.add(client)
            answer = _refusal("The token is wrong. Open the complete address that was printed.", 401)
        await answer(scope, receive, send)

    def _with_cookie(self, send: Send) -> Send:
        async def send_with_cookie(message: Message) -> None:
            if message["type"] == "http.response.start":
                cookie = f"{self._cookie}={self._value}; HttpOnly; Path=/; SameSite=strict"
                MutableHeaders(scope=message).append("Set-Cookie", cookie)
            await send(message)

        return send_with_cookie


class _Guesses:
    """Times of the wrong tokens that each address brought lately."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._times: OrderedDict[str, deque[float]] = OrderedDict()

    def add(self, address: str) -> None:
        self._times.setdefault(address, deque(maxlen=GUESSES)).append(self._now_s())
        self._times.move_to_end(address)
        while len(self._times) > _ADDRESSES:
            self._times.popitem(last=False)

    def is_over(self, address: str) -> bool:
        times = self._times.get(address, deque())
        return len(times) == GUESSES and self._now_s() - times[0] < GUESS_PERIOD_S


def _is_own(request: Request) -> bool:
    headers = request.headers
    if "origin" in headers:
        return bool(headers.get("host")) and _host_of(headers["origin"]) == headers["host"].lower()
    if headers.get("sec-fetch-site", "none") in ("same-origin", "none"):
        return True
    is_link = (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")) == ("navigate", "document")
    return is_link and request.method == "GET"


def _host_of(origin: str) -> str:
    """Return host and port of an origin; empty if it has none, as "null"."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _is_json(request: Request) -> bool:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"


def _refusal(text: str, status: int) -> PlainTextResponse:
    """Return the answer; the connection ends with it, so that a body that follows is not read."""
    return PlainTextResponse(text, status, headers={"Connection": "close"})
