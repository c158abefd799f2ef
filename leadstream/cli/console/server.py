"""The HTTP server of the console: loopback only, behind the gate, with strict headers."""

import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qsl, urlsplit

from leadstream.cli.console.gate import Gate
from leadstream.errors import SettingsError
from leadstream.process.bounded_server import BoundedServer

HOST = "127.0.0.1"
MAX_FORM_BYTES = 64 * 1024
QUIET_SECONDS = 30
# A page may read a topic of millions of predictions.
PAGE_SECONDS = 600
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self'; "
    "form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_ASSETS = {"/style.css": "text/css; charset=utf-8", "/icon.svg": "image/svg+xml"}
_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class PageResponse:
    """The response to a request."""

    status: int
    body: bytes = b""
    kind: str = "text/html; charset=utf-8"
    headers: Mapping[str, str] = field(default_factory=dict)


class Site(Protocol):
    """The pages for signed-in browsers.

    `params` are those of the query or the form. The result is None for an unknown page.
    """

    def get(self, path: str, params: Mapping[str, str], form_token: str) -> PageResponse | None: ...
    def post(self, path: str, params: Mapping[str, str]) -> PageResponse | None: ...
    def message(self, status: int, title: str, text: str, to: str | None = None) -> PageResponse:
        """Return a page with a sentence; `to` is the page that follows automatically."""


class Console:
    """A server of a site on `port`; `say` prints the first link, which works once.

    A browser that has signed in shows the next link. A terminal, or what records it, never holds a
    link that works longer than until the first one is used.
    """

    def __init__(self, port: int, site: Site, say: Callable[[str], None]) -> None:
        self.gate = Gate()
        self._site = site
        self._report_link = say
        self._stopped = threading.Event()
        try:
            self._server = BoundedServer(HOST, port, self._handler(), max_seconds=PAGE_SECONDS)
        except OSError as error:
            raise SettingsError(
                f"--port {port}: cannot listen on {HOST}: {error.strerror}; "
                "choose another port, or 0 for any free one"
            ) from None
        self.port: int = self._server.server_port

    def serve(self) -> None:
        """Serve until `stop`."""
        thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="console", daemon=True
        )
        thread.start()
        self._report_link(
            f"Dead letters at {self._link()}\n"
            "The link works once, for one browser. Ctrl-C ends the console."
        )
        self._stopped.wait()
        self._server.shutdown()
        self._server.server_close()

    def stop(self) -> None:
        """End `serve`."""
        self._stopped.set()

    def respond(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes
    ) -> PageResponse:
        """Return the response to a request, after all checks of the gate."""
        url = urlsplit(target)
        if not self.gate.is_here(headers):
            # The address is a secret, too: a page on another port of it would get the cookie.
            return self._site.message(
                421,
                "Wrong address",
                "Open the link that `leadstream console` prints in its terminal.",
            )
        if method == "GET" and url.path in _ASSETS:
            return PageResponse(200, (_HERE / url.path[1:]).read_bytes(), _ASSETS[url.path])
        params = dict(parse_qsl(url.query if method == "GET" else body.decode("utf-8", "replace")))
        if method == "GET" and url.path == "/" and "token" in params:
            return self._sign_in(params["token"], headers)
        if not self.gate.knows(headers, self.port):
            return self._site.message(
                403,
                "Not signed in",
                "Open the link that `leadstream console` prints in its terminal.",
            )
        if method == "POST" and not self.gate.wrote(headers, params):
            return self._site.message(
                403,
                "Not from this page",
                "The form is from another site or an earlier console: load the page again.",
            )
        if method == "GET" and url.path == "/link":
            return self._site.message(
                200, "Another browser", f"This link works once, for one browser: {self._link()}"
            )
        if method == "GET":
            found = self._site.get(url.path, params, self.gate.form_token)
        else:
            found = self._site.post(url.path, params)
        return found or self._site.message(404, "No such page", "There is nothing at this address.")

    def _sign_in(self, token: str, headers: Mapping[str, str]) -> PageResponse:
        if self.gate.spend(token):
            self._report_link("A browser signed in, and shows the link for another one.")
            # Not a redirect: a browser follows one from another program without the strict cookie.
            page = self._site.message(
                200, "Signed in", "This browser can decide on dead letters now.", to="/"
            )
            return PageResponse(
                page.status, page.body, headers={"Set-Cookie": self.gate.cookie(self.port)}
            )
        if self.gate.knows(headers, self.port):
            return PageResponse(303, headers={"Location": "/"})
        return self._site.message(
            403,
            "This link was used",
            "Each link works once. A browser that has signed in shows another one at the top of "
            "its pages; without such a browser, start `leadstream console` again.",
        )

    def _link(self) -> str:
        return f"http://{self.gate.host}:{self.port}/?token={self.gate.link_token}"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        console = self

        class ConsoleRequestHandler(BaseHTTPRequestHandler):
            """The handler that connects HTTP to the console."""

            timeout = QUIET_SECONDS

            def do_GET(self) -> None:
                self._answer("GET", b"")

            def do_HEAD(self) -> None:
                self._answer("GET", b"")

            def do_POST(self) -> None:
                size = self.headers.get("Content-Length", "")
                if not re.fullmatch(r"\d{1,9}", size) or int(size) > MAX_FORM_BYTES:
                    self.close_connection = True
                    self._send(console._site.message(413, "Too much", "The form is too long."))
                    return
                self._answer("POST", self.rfile.read(int(size)))

            def _answer(self, method: str, body: bytes) -> None:
                response = console._site.message(
                    500, "A bug", "The terminal of the console has the trace."
                )
                try:
                    response = console.respond(method, self.path, dict(self.headers.items()), body)
                finally:
                    self._send(response)

            def _send(self, response: PageResponse) -> None:
                self.send_response(response.status)
                for name, value in {**HEADERS, **response.headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Type", response.kind)
                self.send_header("Content-Length", str(len(response.body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(response.body)

            def version_string(self) -> str:
                return "leadstream"

            def log_message(self, *_: object) -> None:
                """Log no request: the queries name leads."""

        return ConsoleRequestHandler
