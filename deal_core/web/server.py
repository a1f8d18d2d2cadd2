"""Serve the project's pages: access by token, the address to open, and a thread that serves."""

from __future__ import annotations

import ipaddress
import secrets
import socket
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from urllib.parse import quote

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from deal_core.errors import DealError, UsageError
from deal_core.web.connection import LimitedConnection
from deal_core.web.guard import OwnPageOnly, TokenRequired

LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")
_FOLDER = Path(__file__).parent
_SHARED = ("common.css", "common.js")
_SMALL_BODY = 64 * 2**10
_LONGEST_SENTENCE = 300


def new_app(page: Path, token: str | None, *, largest_body: int = _SMALL_BODY) -> FastAPI:
    """Return an application that serves a page, and answers a `DealError` with status 409.

    Requests of pages of other origins, requests without the token, and bodies that are no JSON or too large are
    refused before a body is read.

    Args:
        page: HTML file to serve as `/`.
        token: token that every request needs. Without a token, only requests to a local address are answered, so
            that a foreign web page cannot reach this one through a name that resolves to this machine.
        largest_body: number of bytes that the body of a request may have.
    """
    app = FastAPI(openapi_url=None)
    # The last one is the first that sees a request.
    app.add_middleware(RequestBodyLimitMiddleware, max_body_size=largest_body)
    if token is None:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*LOCAL_HOSTS, "[::1]"])
    else:
        app.add_middleware(TokenRequired, token=token)
    app.add_middleware(OwnPageOnly)

    @app.exception_handler(DealError)
    def tell(request: Request, error: DealError) -> Response:
        return JSONResponse({"detail": str(error)}, status_code=409)

    @app.exception_handler(RequestValidationError)
    def tell_expected(request: Request, error: RequestValidationError) -> Response:
        # FastAPI's own answer repeats what it found, however large, and fails for a NaN.
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"])
        return JSONResponse({"detail": f"{place}: {problem['msg']}"[:_LONGEST_SENTENCE]}, status_code=422)

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
        address: URL for people to open, with the token.
        address_without_token: the same for logs, which others may read.

    Raises:
        UsageError: the address does not belong to this machine, the port is in use, or the token is no text.
    """

    def __init__(self, host: str, port: int, token: str = "", *, names: tuple[str, str] = ("--host", "--port")) -> None:
        if not token.isprintable():
            raise UsageError("the token of the page: expected printable characters, found others")
        self.token = token or (None if host in LOCAL_HOSTS else secrets.token_urlsafe(12))
        self.socket = _listen(host, port, names)
        bound, number = self.socket.getsockname()[:2]
        is_any = ipaddress.ip_address(bound.partition("%")[0]).is_unspecified
        self.address_without_token = f"http://{_own_address() if is_any else _in_url(host)}:{number}/"
        asked = f"?token={quote(self.token, safe='')}" if self.token else ""
        self.address = self.address_without_token + asked

    def __exit__(self, *error: object) -> None:
        self.socket.close()


def page_server(app: FastAPI) -> uvicorn.Server:
    """Return the server of a page; `run` takes the sockets to listen on."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=LimitedConnection,
            ws="none",
            lifespan="off",
            log_level="error",  # for less, a stranger could fill the log
            proxy_headers=False,  # else a stranger could choose the address that is counted for wrong tokens
            server_header=False,
            timeout_graceful_shutdown=1,
        )
    )


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


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _own_address() -> str:
    """Return the address of this machine for other machines; without a network, for itself."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: only the route is looked up
            return str(probe.getsockname()[0])
        except OSError:
            return LOCAL_HOSTS[0]
