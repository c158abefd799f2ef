"""An HTTP server that a client can neither hold nor fill up."""

import contextlib
import socket
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any

MAX_CONNECTIONS = 64


class BoundedServer(ThreadingHTTPServer):
    """A server with a thread for each connection, of which there are at most MAX_CONNECTIONS.

    One more closes the oldest, so that idle connections never keep a new one waiting. A connection
    ends after `max_seconds`. `host` may be an IPv6 address. Raises OSError if the address cannot be
    used.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        host: str,
        port: int,
        handler: type[BaseHTTPRequestHandler],
        *,
        max_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_seconds = max_seconds
        self._clock = clock
        self._open: dict[Any, float] = {}
        self._lock = threading.Lock()
        self.address_family, address = _resolved(host, port)
        super().__init__(address, handler)

    def server_bind(self) -> None:
        """Bind without the name of this host, which HTTPServer asks the network for."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Handle a connection in a thread of its own, and end the oldest one if there are many."""
        with self._lock:
            if len(self._open) >= MAX_CONNECTIONS:
                self._end(next(iter(self._open)))
            self._open[request] = self._clock()
        super().process_request(request, client_address)

    def service_actions(self) -> None:
        """End the connections that took too long; the server calls this between connections."""
        with self._lock:
            latest = self._clock() - self._max_seconds
            for request in [one for one, since in self._open.items() if since < latest]:
                self._end(request)

    def close_request(self, request: Any) -> None:
        """Close a connection."""
        with self._lock:
            self._open.pop(request, None)
        super().close_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print the trace of a bug; a client that leaves early or is ended is none."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

    def _end(self, request: Any) -> None:
        """Shut a connection down; its thread then reads the end, and closes it."""
        self._open.pop(request, None)
        with contextlib.suppress(OSError):  # the client may be quicker
            request.shutdown(socket.SHUT_RDWR)


def _resolved(host: str, port: int) -> tuple[socket.AddressFamily, Any]:
    """Return the family and the address to bind; IPv4 first where a name has both."""
    try:
        found = socket.getaddrinfo(
            bare_host(host), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (UnicodeError, ValueError):
        raise OSError(0, "this is no host name or address") from None
    family, _, _, _, address = min(found, key=lambda one: one[0] is not socket.AF_INET)
    return family, address


def bare_host(host: str) -> str:
    """Return a host without the brackets that URLs put around IPv6 addresses."""
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def host_in_url(host: str) -> str:
    """Return a host as it is written in a URL: an IPv6 address in brackets."""
    bare = bare_host(host)
    return f"[{bare}]" if ":" in bare else bare
