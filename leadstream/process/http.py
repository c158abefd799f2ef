"""The HTTP endpoints: liveness, readiness with what is missing, metrics, and the model in use."""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any

from prometheus_client.exposition import CONTENT_TYPE_LATEST

from leadstream.errors import SettingsError
from leadstream.process.bounded_server import BoundedServer
from leadstream.process.status import Status

JSON = "application/json"
# One read or write of a request, and the whole connection.
IDLE_SECONDS = 5.0
CONNECTION_SECONDS = 10.0


class Endpoints:
    """An HTTP server in a thread of its own, until it is closed; `port` is the one in use.

    `exposed` returns the metrics, and `model` what /model shows. Raises SettingsError if the
    address cannot be used.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        status: Status,
        exposed: Callable[[], bytes],
        model: Callable[[], dict[str, Any] | None],
    ) -> None:
        def healthz() -> tuple[int, str, bytes]:
            turns = status.turns()
            return 200 if turns else 503, JSON, _json({"alive": turns})

        def readyz() -> tuple[int, str, bytes]:
            missing = status.missing()
            return (
                503 if missing else 200,
                JSON,
                _json({"ready": not missing, "missing": missing, "warnings": status.warnings()}),
            )

        def metrics() -> tuple[int, str, bytes]:
            return 200, CONTENT_TYPE_LATEST, exposed()

        def present_model() -> tuple[int, str, bytes]:
            present = model()
            return (
                (200, JSON, _json(present))
                if present
                else (503, JSON, _json({"error": "no model is loaded yet"}))
            )

        pages = {
            "/healthz": healthz,
            "/readyz": readyz,
            "/metrics": metrics,
            "/model": present_model,
        }

        class EndpointHandler(BaseHTTPRequestHandler):
            timeout = IDLE_SECONDS

            def do_GET(self) -> None:
                self.wfile.write(self._head())

            def do_HEAD(self) -> None:
                self._head()

            def _head(self) -> bytes:
                """Send status and headers, and return the body."""
                page = pages.get(self.path.split("?")[0])
                code, kind, body = (
                    page()
                    if page
                    else (404, JSON, _json({"error": "not found", "pages": list(pages)}))
                )
                self.send_response(code)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                return body

            def log_message(self, *_: object) -> None:
                """Requests are not logged: probes would drown the log."""

        try:
            self._server = BoundedServer(
                host, port, EndpointHandler, max_seconds=CONNECTION_SECONDS
            )
        except OSError as error:
            raise SettingsError(
                f"cannot listen on LEADSTREAM_HTTP_HOST={host}, LEADSTREAM_HTTP_PORT={port}: "
                f"{error.strerror}; choose another port, or 0 for any free one"
            ) from None
        self.port: int = self._server.server_port
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="http", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _json(body: object) -> bytes:
    return json.dumps(body, indent=2).encode() + b"\n"
