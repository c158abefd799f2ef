"""The HTTP endpoints: no client may silence them, whatever it sends or does not send."""

import contextlib
import http.client
import itertools
import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from threading import Thread

import pytest

from leadstream.errors import SettingsError
from leadstream.process.bounded_server import MAX_CONNECTIONS, BoundedServer, host_in_url
from leadstream.process.http import Endpoints
from leadstream.process.status import Status

PAGES = ("/healthz", "/readyz", "/metrics", "/model", "/nothing")


@contextlib.contextmanager
def endpoints(host: str = "127.0.0.1") -> Iterator[Endpoints]:
    found = Endpoints(host, 0, status=Status(), exposed=lambda: b"metrics\n", model=lambda: None)
    with contextlib.closing(found):
        yield found


def ask(method: str, page: str, port: int, host: str = "127.0.0.1") -> tuple[int, bytes, str]:
    with contextlib.closing(http.client.HTTPConnection(host, port, timeout=30)) as connection:
        connection.request(method, page)
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers["Content-Length"]


def test_idle_connections_must_not_silence_the_probe() -> None:
    with endpoints() as server, contextlib.ExitStack() as stack:
        for number in range(235):
            idle = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 30))
            idle.sendall((b"", b"GET /healthz", b"GET / HTTP/1.1\r\nHost: x\r\n")[number % 3])
        assert ask("GET", "/healthz", server.port)[0] == 200


def test_one_connection_too_many_ends_the_oldest_and_no_other() -> None:
    with endpoints() as server, contextlib.ExitStack() as stack:
        opened = [
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 30))
            for _ in range(MAX_CONNECTIONS + 1)
        ]
        assert opened[0].recv(1) == b""
        opened[-1].sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert opened[-1].recv(8) == b"HTTP/1.0"


def test_a_client_that_sends_a_byte_now_and_then_must_not_keep_its_connection() -> None:
    passing = itertools.count(0.0, 6.0)  # six seconds pass between two looks at the clock
    server = BoundedServer(
        "127.0.0.1", 0, BaseHTTPRequestHandler, max_seconds=10, clock=lambda: next(passing)
    )
    thread = Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    with socket.create_connection(("127.0.0.1", server.server_port), 30) as slow:
        slow.sendall(b"G")
        assert slow.recv(1) == b""
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("page", PAGES)
def test_a_head_request_gets_the_headers_of_the_page_and_no_body(page: str) -> None:
    with endpoints() as server:
        status, body, length = ask("GET", page, server.port)
        assert ask("HEAD", page, server.port) == (status, b"", length)
        assert len(body) == int(length)


@pytest.mark.parametrize("host", ["::1", "[::1]", "::"])
def test_an_ipv6_address_can_be_listened_on(host: str) -> None:
    with contextlib.closing(socket.socket(socket.AF_INET6)) as one:
        try:
            one.bind(("::1", 0))
        except OSError:
            pytest.skip("this machine has no IPv6")
    with endpoints(host) as server:
        assert ask("GET", "/metrics", server.port, "::1")[:2] == (200, b"metrics\n")


@pytest.mark.parametrize(
    ("host", "written"),
    [("::1", "[::1]"), ("[::1]", "[::1]"), ("127.0.0.1", "127.0.0.1"), ("a.b", "a.b")],
)
def test_an_address_in_a_log_line_can_be_opened(host: str, written: str) -> None:
    assert host_in_url(host) == written


@pytest.mark.parametrize("host", ["no such host", "a" * 70, "a..b", "256.1.1.1", "[", "::g"])
def test_an_address_that_cannot_be_used_is_one_sentence(host: str) -> None:
    with pytest.raises(SettingsError, match=r"cannot listen on LEADSTREAM_HTTP_HOST="):
        Endpoints(host, 0, status=Status(), exposed=lambda: b"", model=lambda: None)
