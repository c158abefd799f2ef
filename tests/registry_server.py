"""A tiny in-memory schema registry over HTTP on a free loopback port, with the Confluent API that
clients need.
"""

import json
import re
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit


@dataclass
class RegistryState:
    """What the server holds.

    A test may read it, and set `failure` to answer every request with that HTTP status.
    """

    url: str = ""
    schemas: list[str] = field(default_factory=list)  # id 1 first
    subjects: dict[str, list[int]] = field(
        default_factory=dict
    )  # versions as schema ids, oldest first
    levels: dict[str, str] = field(default_factory=dict)
    requests: list[tuple[str, str, str | None]] = field(
        default_factory=list
    )  # method, path, Authorization
    failure: int | None = None
    answer: bytes | None = (
        None  # sent with status 200 or `failure` in place of what the registry would say
    )
    odd: dict[int, bytes] = field(default_factory=dict)  # answers for these schema ids
    refuse: set[str] = field(default_factory=set)  # subjects whose registrations are incompatible
    hold: threading.Event | None = None  # every request waits until it is set


@contextmanager
def registry_server(tls: ssl.SSLContext | None = None) -> Iterator[RegistryState]:
    """Runs a registry for the length of the block, over https with `tls`; `state.url` is its
    address.
    """
    state = RegistryState()
    handler = type("Handler", (_RegistryHandler,), {"state": state})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    if tls:
        server.socket = tls.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
    state.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield state
    finally:
        if state.hold:
            state.hold.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _RegistryError(Exception):
    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


_NO_SUBJECT = _RegistryError(404, 40401, "Subject not found.")
_NO_VERSION = _RegistryError(404, 40402, "Version not found.")
_NO_SCHEMA = _RegistryError(404, 40403, "Schema not found")


class _RegistryHandler(BaseHTTPRequestHandler):
    state: ClassVar[RegistryState]
    protocol_version = "HTTP/1.1"
    wbufsize = (
        -1
    )  # head and body leave in one packet: apart they cost 40 ms of delayed acknowledgement

    def _handle(self) -> None:
        state = self.state
        path = urlsplit(self.path).path
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        state.requests.append((self.command, path, self.headers.get("Authorization")))
        if state.hold:
            state.hold.wait()
        status, answer = 200, b""
        if state.failure or state.answer is not None:
            status, answer = state.failure or 200, state.answer or b""
        elif path in (
            odd := {f"/schemas/ids/{number}": data for number, data in state.odd.items()}
        ):
            answer = odd[path]
        else:
            try:
                result = _answer(state, self.command, path, json.loads(body) if body else {})
            except _RegistryError as error:
                status, result = error.status, {"error_code": error.code, "message": str(error)}
            answer = json.dumps(result).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        with suppress(ConnectionError):  # the client did not wait
            self.wfile.write(answer)
            self.wfile.flush()

    do_GET = do_POST = do_PUT = _handle  # noqa: N815 -- names that http.server looks up

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing: a test's output is its failures."""


def _answer(state: RegistryState, method: str, path: str, body: dict[str, Any]) -> Any:
    parts = [unquote(part) for part in path.strip("/").split("/")]
    match method, parts:
        case "GET", ["schemas", "ids", number]:
            if not re.fullmatch("[0-9]+", number) or not 0 < int(number) <= len(state.schemas):
                raise _NO_SCHEMA
            return {"schema": state.schemas[int(number) - 1]}
        case "GET", ["subjects"]:
            return list(state.subjects)
        case "GET", ["subjects", subject, "versions"]:
            return [index + 1 for index in range(len(_versions(state, subject)))]
        case "GET", ["subjects", subject, "versions", version]:
            return _version(state, subject, version)
        case "POST", ["subjects", subject, "versions"]:
            return _register(state, subject, body["schema"])
        case "POST", ["subjects", subject]:
            versions = _versions(state, subject)
            ids = {state.schemas[schema_id - 1]: schema_id for schema_id in versions}
            if body["schema"] not in ids:
                raise _NO_SCHEMA
            found = ids[body["schema"]]
            return {
                "subject": subject,
                "version": versions.index(found) + 1,
                "id": found,
                "schema": body["schema"],
            }
        case "POST", ["compatibility", "subjects", subject, "versions", "latest"]:
            _versions(state, subject)
            return {"is_compatible": subject not in state.refuse}
        case "PUT", ["config", subject]:
            state.levels[subject] = body["compatibility"]
            return {"compatibility": body["compatibility"]}
        case "GET", ["config", subject]:
            if subject not in state.levels:
                raise _RegistryError(
                    404, 40408, "Subject does not have subject-level compatibility configured"
                )
            return {"compatibilityLevel": state.levels[subject]}
    raise _RegistryError(404, 404, "HTTP 404 Not Found")


def _versions(state: RegistryState, subject: str) -> list[int]:
    if subject not in state.subjects:
        raise _NO_SUBJECT
    return state.subjects[subject]


def _version(state: RegistryState, subject: str, version: str) -> dict[str, Any]:
    versions = _versions(state, subject)
    number = len(versions) if version == "latest" else int(version)
    if not 0 < number <= len(versions):
        raise _NO_VERSION
    schema_id = versions[number - 1]
    return {
        "subject": subject,
        "version": number,
        "id": schema_id,
        "schema": state.schemas[schema_id - 1],
    }


def _register(state: RegistryState, subject: str, schema: str) -> dict[str, int]:
    if subject in state.refuse:
        raise _RegistryError(
            409, 409, "Schema being registered is incompatible with an earlier schema"
        )
    if schema not in state.schemas:
        state.schemas.append(schema)
    number = state.schemas.index(schema) + 1
    versions = state.subjects.setdefault(subject, [])
    if number not in versions:
        versions.append(number)
    return {"id": number}
