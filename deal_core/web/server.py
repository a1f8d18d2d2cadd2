"""Serve the project's pages: access by token, the address to open, and a thread that serves."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import socket
import threading
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse
from starlette.middleware.trustedhost import TrustedHostMiddleware

from deal_core.errors import DealError, UsageError

LOCAL_HOSTS = ("127.0.0.1", "localhost")
_FOLDER = Path(__file__).parent
_SHARED = ("common.css", "common.js")


def new_app(page: Path, token: str | None) -> FastAPI:
    """Return an application that serves a page, and answers a `DealError` with status 409.

    Args:
        page: HTML file to serve as `/`.
        token: token that every request needs. Without a token, only requests to a local address are answered, so
            that a foreign web page cannot reach this one through a name that resolves to this machine.
    """
    app = FastAPI(openapi_url=None)
    if token is None:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(LOCAL_HOSTS))
    else:
        app.middleware("http")(_asks_for(token))

    @app.exception_handler(DealError)
    def tell(request: Request, error: DealError) -> Response:
        return JSONResponse({"detail": str(error)}, status_code=409)

    for path, file in {"/": page, **{f"/{name}": _FOLDER / name for name in _SHARED}}.items():
        app.add_api_route(path, _sends(file), response_class=FileResponse)
    return app


class Door(AbstractContextManager["Door"]):
    """A context manager that listens on an address, with the token that requests need.

    Args:
        host: address of this machine; 0.0.0.0 accepts requests from other machines.
        port: port to listen on; 0 takes any free port.
        token: token that every request needs; if empty, a token is made unless `host` is local.
        names: names of the options or parameters for host and port, for errors.

    Attributes:
        token: token that requests need; None if no token is needed.
        address: URL for people to open.

    Raises:
        UsageError: the address does not belong to this machine, or the port is in use.
    """

    def __init__(self, host: str, port: int, token: str = "", *, names: tuple[str, str] = ("--host", "--port")) -> None:
        self.token = token or (None if host in LOCAL_HOSTS else secrets.token_urlsafe(12))
        self.socket = _listen(host, port, names)
        asked = f"?token={self.token}" if self.token else ""
        self.address = f"http://{_reachable(host)}:{self.socket.getsockname()[1]}/{asked}"

    def __exit__(self, *error: object) -> None:
        self.socket.close()


def page_server(app: FastAPI) -> uvicorn.Server:
    """Return the server of a page; `run` takes the sockets to listen on."""
    return uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off", timeout_graceful_shutdown=1))


class ServingThread(AbstractContextManager["ServingThread"]):
    """A context manager that serves a page in a separate thread.

    Args:
        app: makes the page's application in the new thread, so that a thread that takes images does not wait for it.
        door: the address to listen on, already open.
    """

    def __init__(self, app: Callable[[], FastAPI], door: Door) -> None:
        self._app, self._door = app, door
        self._server: uvicorn.Server | None = None
        self._is_over = False
        self._thread = threading.Thread(target=self._serve, name="page", daemon=True)
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._is_over = True
        if self._server:
            self._server.should_exit = True
        self._thread.join()

    def _serve(self) -> None:
        self._server = page_server(self._app())
        self._server.should_exit = self._is_over  # it may have ended before it began
        self._server.run(sockets=[self._door.socket])


def _sends(file: Path) -> Callable[[], FileResponse]:
    return lambda: FileResponse(file, headers={"Cache-Control": "no-cache"})


def _listen(host: str, port: int, names: tuple[str, str]) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UsageError(f"{names[0]} {host}: expected an address of this machine ({error.strerror})") from None
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen()
    except OSError as error:
        listening.close()
        raise UsageError(
            f"{names[1]} {port} on {host} cannot be used ({error.strerror}): choose another, or {names[1]} 0 for any"
        ) from None
    return listening


def _reachable(host: str) -> str:
    """Return the address of this machine for other machines, also if it listens on all addresses."""
    if host not in ("0.0.0.0", "::"):
        return f"[{host}]" if ":" in host else host
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: only the route is looked up
            return str(probe.getsockname()[0])
        except OSError:
            return socket.gethostname()


def _asks_for(token: str) -> Callable[[Request, Callable[[Request], Awaitable[Response]]], Awaitable[Response]]:
    """Accept requests whose address contains the token, and set a cookie that later requests may use."""
    # Browsers share cookies between the ports of a machine: each page needs a separate name.
    cookie = f"deal_{hashlib.sha256(token.encode()).hexdigest()[:12]}"

    def is_right(found: str | None) -> bool:
        return found is not None and hmac.compare_digest(found.encode(), token.encode())

    async def check(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        brought = is_right(request.query_params.get("token"))
        if not brought and not is_right(request.cookies.get(cookie)):
            return PlainTextResponse("Open the complete address that was printed, including its token.", 401)
        response = await answer(request)
        if brought:
            response.set_cookie(cookie, token, httponly=True, samesite="strict")
        return response

    return check
