"""The HTTP of the console: on loopback only, behind the gate, with headers that let a page load nothing of others."""

import re
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qsl, urlsplit

from leadstream.cli.console.gate import Gate, is_here
from leadstream.errors import SettingsError

HOST = "127.0.0.1"
MOST_BYTES = 64 * 1024
QUIET_SECONDS = 30
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; "
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
class Answer:
    """What a page is sent as."""

    status: int
    body: bytes = b""
    kind: str = "text/html; charset=utf-8"
    headers: Mapping[str, str] = field(default_factory=dict)


class Site(Protocol):
    """The pages, for who was let in; `said` are the words of the query or form. None where there is no such page."""

    def get(self, path: str, said: Mapping[str, str], form_token: str) -> Answer | None: ...
    def post(self, path: str, said: Mapping[str, str]) -> Answer | None: ...
    def message(self, status: int, title: str, text: str, to: str | None = None) -> Answer:
        """A page with a sentence; `to` is where it goes by itself."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A browser that leaves in the middle is no error of ours; anything else is a bug, and is shown.
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class Console:
    """Serves a site on `port` until it is stopped; each link that is printed by `say` is good once."""

    def __init__(self, port: int, site: Site, say: Callable[[str], None]) -> None:
        self.gate = Gate()
        self._site = site
        self._say = say
        self._stopped = threading.Event()
        try:
            self._server = _Server((HOST, port), self._handler())
        except OSError as error:
            raise SettingsError(
                f"--port {port}: cannot listen on {HOST}: {error.strerror}; choose another port, or 0 for any free one"
            ) from None
        self.port: int = self._server.server_address[1]

    def serve(self) -> None:
        """Serve until `stop`."""
        thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="console", daemon=True
        )
        thread.start()
        self._say(
            f"Dead letters at {self._link()}\nThe link is good for one browser, once. Ctrl-C ends the console."
        )
        self._stopped.wait()
        self._server.shutdown()
        self._server.server_close()

    def stop(self) -> None:
        """End `serve`."""
        self._stopped.set()

    def answer(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """The answer to a request: let in, refused, or asked to come by the link."""
        url = urlsplit(target)
        if not is_here(headers):
            return self._site.message(
                421,
                "Wrong address",
                f"The console is at http://{HOST}:{self.port}/, and has no other name.",
            )
        if method == "GET" and url.path in _ASSETS:
            return Answer(200, (_HERE / url.path[1:]).read_bytes(), _ASSETS[url.path])
        said = dict(parse_qsl(url.query if method == "GET" else body.decode("utf-8", "replace")))
        if method == "GET" and url.path == "/" and "token" in said:
            return self._sign_in(said["token"], headers)
        if not self.gate.knows(headers, self.port):
            return self._site.message(
                403,
                "Not signed in",
                "Open the link that `leadstream console` shows in its terminal.",
            )
        if method == "POST" and not self.gate.wrote(headers, said):
            return self._site.message(
                403,
                "Not from this page",
                "The form was not made by this console, or by an earlier one: load it again.",
            )
        if method == "GET":
            found = self._site.get(url.path, said, self.gate.form_token)
        else:
            found = self._site.post(url.path, said)
        return found or self._site.message(404, "No such page", "There is nothing at this address.")

    def _sign_in(self, token: str, headers: Mapping[str, str]) -> Answer:
        if self.gate.spend(token):
            self._say(f"A browser signed in. For another one: {self._link()}")
            # Not a redirect: one that began in another program would be followed without the strict cookie.
            page = self._site.message(
                200, "Signed in", "This browser may decide on dead letters now.", to="/"
            )
            return Answer(
                page.status, page.body, headers={"Set-Cookie": self.gate.cookie(self.port)}
            )
        if self.gate.knows(headers, self.port):
            return Answer(303, headers={"Location": "/"})
        return self._site.message(
            403,
            "This link was used",
            "Each link is good once: open the newest in the terminal of `leadstream console`.",
        )

    def _link(self) -> str:
        return f"http://{HOST}:{self.port}/?token={self.gate.link_token}"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        console = self

        class Handler(BaseHTTPRequestHandler):
            timeout = QUIET_SECONDS

            def do_GET(self) -> None:
                self._answer("GET", b"")

            def do_POST(self) -> None:
                size = self.headers.get("Content-Length", "")
                if not re.fullmatch(r"\d{1,9}", size) or int(size) > MOST_BYTES:
                    self.close_connection = True
                    self._send(console._site.message(413, "Too much", "The form is too long."))
                    return
                self._answer("POST", self.rfile.read(int(size)))

            def _answer(self, method: str, body: bytes) -> None:
                answer = console._site.message(
                    500, "A bug", "The terminal of the console has the trace."
                )
                try:
                    answer = console.answer(method, self.path, dict(self.headers.items()), body)
                finally:
                    self._send(answer)

            def _send(self, answer: Answer) -> None:
                self.send_response(answer.status)
                for name, value in {**HEADERS, **answer.headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Type", answer.kind)
                self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                self.wfile.write(answer.body)

            def version_string(self) -> str:
                return "leadstream"

            def log_message(self, *_: object) -> None:
                """Requests are not logged: their queries name leads."""

        return Handler
