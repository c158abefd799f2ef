"""HTTP requests to a schema registry: one deadline for the whole answer, and a bound on its bytes.

A request is sent once, without redirects, on a connection of its own. An answer may come byte by
byte, never end, or be compressed: what is read stays within the deadline and the bound.
"""

import base64
import contextlib
import io
import json
import os
import socket
import ssl
import zlib
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from typing import Any, NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies_environment, proxy_bypass

from leadstream import __version__
from leadstream.deadline import Deadline
from leadstream.errors import SettingsError, Transient, error_text

MAX_ANSWER_BYTES = 4 * 1024 * 1024
_CHUNK_BYTES = 64 * 1024
_RETRIABLE = {408, 429, 500, 502, 503, 504}
_CONTENT_TYPE = "application/vnd.schemaregistry.v1+json"
_ACCEPT = f"{_CONTENT_TYPE}, application/json"


class RegistryAnswer(NamedTuple):
    """The status of an answer, and its JSON; `data` is None if it holds none."""

    status: int
    data: Any


class UnusableAnswer(Transient):
    """An answer that no registry gives, from something that does answer."""

    def __init__(self, detail: str) -> None:
        super().__init__("registry", detail)


class SlowAnswer(Transient):
    """An answer that did not come within the deadline."""

    def __init__(self, seconds: float) -> None:
        super().__init__("registry", f"it gave no answer within {seconds:g} s")


class RegistryHttp:
    """A sender of requests to the addresses of one registry, in their order until one answers.

    `user` is user:password for basic auth.
    """

    def __init__(self, addresses: list[str], user: str | None, timeout_s: float) -> None:
        self._addresses = [urlsplit(address) for address in addresses]
        self._timeout_s = timeout_s
        self._headers = {
            "Accept": _ACCEPT,
            "Accept-Encoding": "identity",
            "Connection": "close",
            "User-Agent": f"leadstream/{__version__}",
        }
        if user is not None:
            self._headers["Authorization"] = _basic(user)
        secure = any(address.scheme == "https" for address in self._addresses)
        self._tls = _tls() if secure else None

    def ask(self, method: str, path: str, body: Any = None) -> RegistryAnswer:
        """Send a request, and return the answer. Raises Transient."""
        for address in self._addresses[:-1]:
            try:
                answer = self._ask_one(address, method, path, body)
            except Transient:
                continue
            if answer.status not in _RETRIABLE:
                return answer
        return self._ask_one(self._addresses[-1], method, path, body)

    def _ask_one(self, address: SplitResult, method: str, path: str, body: Any) -> RegistryAnswer:
        try:
            status, raw = self._exchange(address, method, path, body)
        except Transient:
            raise
        except TimeoutError:
            raise SlowAnswer(self._timeout_s) from None
        except ssl.SSLCertVerificationError as error:
            raise Transient(
                "registry",
                f"its certificate cannot be trusted ({error.verify_message}); "
                "name its authority in SSL_CERT_FILE",
            ) from None
        except OSError as error:
            raise Transient(
                "registry", f"it cannot be reached ({error.strerror or type(error).__name__})"
            ) from None
        except Exception:  # noqa: BLE001 -- whatever is left is about the bytes of this answer
            raise UnusableAnswer("its answer is not HTTP; check SCHEMA_REGISTRY_URL") from None
        return RegistryAnswer(status, _as_json(raw))

    def _exchange(
        self, address: SplitResult, method: str, path: str, body: Any
    ) -> tuple[int, bytes]:
        """Return the status and the body of an answer; raises whatever the network causes."""
        deadline = Deadline.after(self._timeout_s)
        connection, target = self._connection(address, path)
        headers = self._headers | ({"Content-Type": _CONTENT_TYPE} if body else {})
        with contextlib.ExitStack() as stack:
            stack.callback(connection.close)
            connection.connect()
            stack.enter_context(connection.sock)
            connection.sock = _DeadlineSocket(connection.sock, deadline)
            connection.request(method, target, body and json.dumps(body).encode(), headers)
            answer = connection.getresponse()
            return answer.status, _read(answer, deadline)

    def _connection(self, address: SplitResult, path: str) -> tuple[HTTPConnection, str]:
        """Return a connection, through the proxy that the environment names, and the target."""
        host, target = address.hostname or "", f"{address.path.rstrip('/')}/{path}"
        proxy = _proxy(address)
        near = proxy or address
        endpoint = (near.hostname or "", near.port)
        if address.scheme == "https":
            connection: HTTPConnection = HTTPSConnection(
                *endpoint, timeout=self._timeout_s, context=self._tls
            )
            if proxy is not None:
                connection.set_tunnel(host, address.port or 443, headers=_proxy_headers(proxy))
            return connection, target
        connection = HTTPConnection(*endpoint, timeout=self._timeout_s)
        return connection, target if proxy is None else f"http://{address.netloc}{target}"


class _DeadlineSocket:
    """A connected socket of which every call ends by a deadline."""

    def __init__(self, opened: socket.socket, deadline: Deadline) -> None:
        self.socket = opened
        self._deadline = deadline

    def sendall(self, data: bytes) -> None:
        self.limit()
        self.socket.sendall(data)

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_DeadlineReader(self))

    def limit(self) -> None:
        """Let the next call wait no longer than the deadline. Raises TimeoutError after it."""
        left = self._deadline.left()
        if left <= 0:
            raise TimeoutError
        self.socket.settimeout(left)

    def close(self) -> None:
        """Leave the socket open: the answer is still to be read."""


class _DeadlineReader(io.RawIOBase):
    """The stream of an answer, up to the bound: a chunk may state any size, a negative one too."""

    def __init__(self, opened: _DeadlineSocket) -> None:
        self._opened = opened
        self._left = MAX_ANSWER_BYTES + _CHUNK_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._opened.limit()
        count = self._opened.socket.recv_into(buffer)
        self._left -= count
        if self._left < 0:
            raise _too_long()
        return count


def _read(answer: HTTPResponse, deadline: Deadline) -> bytes:
    """Return the body, also of a compressed answer. Raises Transient beyond the bound."""
    compressed = answer.headers.get("Content-Encoding", "identity").strip().lower()
    unpack = zlib.decompressobj(wbits=47) if compressed in {"gzip", "x-gzip", "deflate"} else None
    body = b""
    while not deadline.expired and (chunk := answer.read(_CHUNK_BYTES)):
        body += chunk if unpack is None else unpack.decompress(chunk, MAX_ANSWER_BYTES)
        if len(body) > MAX_ANSWER_BYTES or (unpack is not None and unpack.unconsumed_tail):
            raise _too_long()
    if deadline.expired:
        raise TimeoutError
    return body


def _too_long() -> UnusableAnswer:
    return UnusableAnswer(f"its answer has more than {MAX_ANSWER_BYTES:,} bytes")


def _as_json(raw: bytes) -> Any:
    """Return the JSON of a body, None if it is something else."""
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None


def _basic(user: str) -> str:
    return f"Basic {base64.b64encode(user.encode()).decode()}"


def _proxy(address: SplitResult) -> SplitResult | None:
    found = getproxies_environment()
    if proxy_bypass(address.hostname or ""):
        return None
    url = found.get(address.scheme) or found.get("all")
    return urlsplit(url if "://" in url else f"http://{url}") if url else None


def _proxy_headers(proxy: SplitResult) -> Mapping[str, str]:
    if proxy.username is None:
        return {}
    user = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": _basic(user)}


def _tls() -> ssl.SSLContext:
    """Return the context that trusts SSL_CERT_FILE and SSL_CERT_DIR, else certifi's authorities."""
    file, folder = (os.environ.get(name) or None for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"))
    if file is None and folder is None:
        import certifi  # noqa: PLC0415 -- only a registry behind https needs it

        file = certifi.where()
    try:
        return ssl.create_default_context(cafile=file, capath=folder)
    except OSError as error:
        raise SettingsError(
            f"SSL_CERT_FILE or SSL_CERT_DIR cannot be read: {error_text(error)}"
        ) from None
