"""The server of the pages against strangers: other origins, wrong tokens, bodies and requests without an end."""

from __future__ import annotations

import http.client
import json
import logging
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

pytest.importorskip("fastapi", reason="fastapi is not installed (extra tag)")

from fastapi import FastAPI
from pydantic import BaseModel

from deal_core.errors import UsageError
from deal_core.web import connection
from deal_core.web.guard import GUESSES
from deal_core.web.server import Door, ServingThread, new_app

LARGEST = 1000


class Number(BaseModel):
    number: int


class Served:
    """A page at an address, and what its clients are told."""

    def __init__(self, door: Door) -> None:
        self.door, self.numbers = door, list[int]()

    def app(self, page: Path) -> FastAPI:
        app = new_app(page, self.door.token, largest_body=LARGEST)

        @app.post("/number")
        def take(number: Number) -> int:
            self.numbers.append(number.number)
            return len(self.numbers)

        return app

    @property
    def port(self) -> int:
        return int(self.door.socket.getsockname()[1])

    def ask(
        self, path: str = "/", body: str | bytes | None = None, method: str = "", **headers: str
    ) -> tuple[int, str, http.client.HTTPMessage]:
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        given = {"Content-Type": "application/json"} if body is not None else {}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            link.request(method or ("GET" if body is None else "POST"), path, body, given)
            answer = link.getresponse()
            return answer.status, answer.read().decode(), answer.headers
        finally:
            link.close()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    page = tmp_path / "page.html"
    page.write_text("<p>hello", encoding="utf-8")
    with ExitStack() as opened:

        def start(token: str = "") -> Served:
            served = Served(opened.enter_context(Door("127.0.0.1", 0, token)))
            opened.enter_context(ServingThread(lambda: served.app(page), served.door))
            return served

        yield start


def until_ended(link: socket.socket) -> int:
    """Wait until the server ends the connection, and return the number of bytes that it sent."""
    received = 0
    with suppress(ConnectionResetError):
        while data := link.recv(2**16):
            received += len(data)
    return received


OWN: list[dict[str, str]] = [
    {},
    {"Sec_Fetch_Site": "same-origin"},
    {"Sec_Fetch_Site": "none"},
    {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"},
]
FOREIGN: list[dict[str, str]] = [
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://127.0.0.1:1"},
    {"Origin": "http://[", "Sec_Fetch_Site": "same-origin"},
    {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "no-cors", "Sec_Fetch_Dest": "image"},
    {"Sec_Fetch_Site": "same-site", "Sec_Fetch_Mode": "cors", "Sec_Fetch_Dest": "empty"},
    {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "iframe"},
]


@pytest.mark.parametrize("token", ["", "key"])
def test_another_origin_can_neither_read_nor_write(serve: Callable[..., Served], token: str) -> None:
    served = serve(token)
    query = f"?token={token}" if token else ""
    for headers in OWN:
        assert served.ask(f"/{query}", **headers)[:2] == (200, "<p>hello"), headers
    own = {"Origin": f"http://127.0.0.1:{served.port}", "Sec_Fetch_Site": "same-origin"}
    assert served.ask(f"/number{query}", '{"number": 1}', **own)[:2] == (200, "1")
    for headers in FOREIGN:
        assert served.ask(f"/{query}", **headers)[0] == 403, headers
        assert served.ask(f"/number{query}", '{"number": 2}', **headers)[0] == 403, headers
    link = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}
    assert served.ask(f"/number{query}", '{"number": 2}', **link)[0] == 403, "a form of another page"
    assert served.numbers == [1]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_a_body_has_to_be_json(serve: Callable[..., Served], kind: str) -> None:
    served = serve()
    assert served.ask("/number", '{"number": 1}', Content_Type=kind)[0] == 415
    assert served.ask("/number", '{"number": 1}', Content_Type="application/json; charset=utf-8")[0] == 200
    assert served.numbers == [1]


def test_no_page_may_frame_or_embed_an_answer(serve: Callable[..., Served]) -> None:
    served = serve("key")
    for path, headers in (("/?token=key", {}), ("/", {}), ("/missing?token=key", {}), ("/", {"Origin": "null"})):
        found = served.ask(path, **headers)[2]
        assert found["Content-Security-Policy"] == "frame-ancestors 'none'" and found["X-Frame-Options"] == "DENY"
        assert found["Cross-Origin-Resource-Policy"] == "same-origin"
        assert "Access-Control-Allow-Origin" not in found


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_large_body_is_refused(serve: Callable[..., Served], is_chunked: bool) -> None:
    served = serve()
    head = b"POST /number HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", served.port), timeout=60) as link:
        if is_chunked:
            link.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n" + b"400\r\n" + b" " * 1024 + b"\r\n")
        else:
            link.sendall(head + b"Content-Length: 999999999999\r\n\r\n")  # and nothing of it is sent
        assert link.recv(100).startswith(b"HTTP/1.1 413 ")
    assert served.ask("/number", json.dumps({"number": 1}) + " " * (LARGEST - 20))[0] == 200


@pytest.mark.parametrize(
    "body", ['{"number": NaN}', '{"number": 1e999}', "[" * 990, '{"number": "' + "x" * 900 + '"}', "7" * 900, "{", ""]
)
def test_a_wrong_body_gets_a_short_sentence(serve: Callable[..., Served], body: str) -> None:
    status, said, _ = serve().ask("/number", body)
    assert status in (400, 422) and len(said) < 400, said
    assert isinstance(json.loads(said)["detail"], str)


def test_without_a_token_only_local_names_are_answered(serve: Callable[..., Served]) -> None:
    served = serve()
    for host in ("127.0.0.1", f"localhost:{served.port}", f"[::1]:{served.port}"):
        assert served.ask(Host=host)[0] == 200, host
    for host in ("evil.example", f"127.0.0.1.evil.example:{served.port}", ""):
        assert served.ask(Host=host)[0] == 400, host


def test_the_cookie_serves_for_the_token_and_does_not_tell_it(serve: Callable[..., Served]) -> None:
    served = serve("a key; with=signs ü&#+%")
    asked = urlsplit(served.door.address)
    assert served.ask("/")[0] == 401
    status, _, headers = served.ask(f"{asked.path}?{asked.query}")
    assert status == 200, "the address that is printed opens"
    cookie = headers["Set-Cookie"].partition(";")[0]
    assert "key" not in cookie and served.ask("/", Cookie=cookie)[0] == 200
    assert served.ask("/", Cookie=f"{cookie}0")[0] == 401
    assert "HttpOnly" in headers["Set-Cookie"] and "SameSite=strict" in headers["Set-Cookie"]


def test_tokens_cannot_be_guessed_without_end(serve: Callable[..., Served]) -> None:
    served = serve("key")
    cookie = served.ask("/?token=key")[2]["Set-Cookie"].partition(";")[0]
    assert [served.ask(f"/?token={n}")[0] for n in range(GUESSES)] == [401] * GUESSES
    assert served.ask("/?token=key")[0] == 429, "else one more guess would have been taken"
    assert served.ask("/?token=key", X_Forwarded_For="10.0.0.1")[0] == 429
    assert served.ask("/", Cookie=cookie)[0] == 200, "who is in stays in"


def test_requests_without_an_end_are_ended(serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "REQUEST_S", 0.3)
    served = serve()
    post = b"POST /number HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n"
    for begun in (b"", b"GET / HTTP/1.1\r\nHost: 127", post + b"{"):
        with socket.create_connection(("127.0.0.1", served.port), timeout=60) as link:
            link.sendall(begun)
            assert until_ended(link) == 0
    assert served.ask()[0] == 200


def test_an_answer_that_nobody_reads_is_ended(
    serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    served = serve()
    size = 50_000_000
    (tmp_path / "page.html").write_bytes(bytes(size))
    monkeypatch.setattr(connection, "REQUEST_S", 0.3)
    with socket.create_connection(("127.0.0.1", served.port), timeout=60) as link:
        link.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        time.sleep(1)
        assert until_ended(link) < size


def test_connections_are_limited(serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "CONNECTIONS", 5)
    monkeypatch.setattr(connection, "REQUEST_S", 3600)  # which would end them, too
    served = serve()
    with ExitStack() as opened:
        links = [
            opened.enter_context(socket.create_connection(("127.0.0.1", served.port), timeout=60)) for _ in range(20)
        ]
        assert [until_ended(link) for link in links[5:]] == [0] * 15
    end = time.monotonic() + 60
    while served.ask()[0] != 200:
        assert time.monotonic() < end


def test_a_stranger_writes_no_log(
    serve: Callable[..., Served], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    served = serve("secret-key")
    with caplog.at_level(logging.DEBUG):
        served.ask("/?token=secret-key")
        served.ask("/?token=wrong")
        served.ask("/", Upgrade="websocket", Connection="Upgrade")
        with socket.create_connection(("127.0.0.1", served.port), timeout=60) as link:
            link.sendall(b"nonsense\r\n\r\n")
            assert link.recv(100).startswith(b"HTTP/1.1 400")
    assert "secret-key" not in caplog.text
    assert capfd.readouterr() == ("", "")


def test_printed_addresses_open() -> None:
    with Door("127.0.0.1", 0) as door:
        assert door.address == door.address_without_token == f"http://127.0.0.1:{door.socket.getsockname()[1]}/"
    for host in ("0.0.0.0", "0", "::"):
        with Door(host, 0, "a b&c") as door:
            assert door.address == f"{door.address_without_token}?token=a%20b%26c"
            name, port = urlsplit(door.address).hostname, urlsplit(door.address).port
            assert name and port
            socket.create_connection((name, port), timeout=60).close()
    with Door("::1", 0) as door:
        assert door.token is None and door.address.startswith("http://[::1]:")
    with pytest.raises(UsageError, match="printable"):
        Door("127.0.0.1", 0, "a\nb")
