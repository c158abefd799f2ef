"""A pooler in transaction mode as clients of Postgres meet it, such as PgBouncer.

It refuses or ignores the options of a start, draws process ids of its own, and keeps nothing of a
session from one transaction to the next.
"""

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator

from psycopg.conninfo import conninfo_to_dict, make_conninfo

_STARTUP, _SSL, _GSS = 196608, 80877103, 80877104
_READY, _IDLE = b"Z", b"I"
_ANSWERED = (3, 5, 10, 11)
Message = tuple[bytes, bytes]


class TransactionPooler:
    """Serves each client with a session that forgets everything after each transaction.

    It ignores the options of a start, or refuses them. With `statements` it refuses transactions of
    several statements.
    """

    def __init__(self, url: str, *, ignores: bool, statements: bool) -> None:
        self._statements = statements
        self._target = conninfo_to_dict(url)
        self._ignores = ignores
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = make_conninfo(url, host="127.0.0.1", port=self._server.getsockname()[1])
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """End every connection."""
        for each in (self._server, *self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                self._open.append(client)
                threading.Thread(target=self._quietly, args=(client,), daemon=True).start()

    def _quietly(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError, struct.error):
            self._serve(client)
        client.close()

    def _serve(self, client: socket.socket) -> None:
        while True:
            [size, code] = struct.unpack("!ii", _exactly(client, 8))
            body = _exactly(client, size - 8)
            if code in (_SSL, _GSS):
                client.sendall(b"N")
            elif code == _STARTUP:
                break
            else:
                return
        given = body.rstrip(b"\0").split(b"\0")
        parameters = dict(zip(given[::2], given[1::2], strict=False))
        if parameters.pop(b"options", b"") and not self._ignores:
            _refuse(client, b"unsupported startup parameter: options")
            return
        server = self._session(client, parameters)
        while _pass_transaction(client, server, statements=self._statements):
            _send(server, (b"Q", b"discard all\0"))
            while _message(server) != (_READY, _IDLE):
                pass

    def _session(self, client: socket.socket, parameters: dict[bytes, bytes]) -> socket.socket:
        server = self._connect()
        self._open.append(server)
        text = b"".join(name + b"\0" + value + b"\0" for name, value in parameters.items()) + b"\0"
        server.sendall(struct.pack("!ii", len(text) + 8, _STARTUP) + text)
        while True:
            kind, message = _message(server)
            if kind == b"K":
                message = struct.pack("!ii", 1, 7)
            _send(client, (kind, message))
            if kind == _READY:
                return server
            if kind == b"R" and struct.unpack("!i", message[:4])[0] in _ANSWERED:
                _send(server, _message(client))

    def _connect(self) -> socket.socket:
        host, port = str(self._target.get("host")), int(self._target.get("port") or 5432)
        if host.startswith("/"):
            server = socket.socket(socket.AF_UNIX)
            server.connect(f"{host}/.s.PGSQL.{port}")
            return server
        return socket.create_connection((host, port))


@contextlib.contextmanager
def pooled(url: str, *, ignores: bool = False, statements: bool = False) -> Iterator[str]:
    """Run the block behind a pooler; yields its URL."""
    pooler = TransactionPooler(url, ignores=ignores, statements=statements)
    try:
        yield pooler.url
    finally:
        pooler.close()


def _pass_transaction(client: socket.socket, server: socket.socket, *, statements: bool) -> bool:
    """Pass messages until a transaction ends; return False at the end of the client."""
    while True:
        kind, message = _message(client)
        if kind == b"X":
            return False
        if statements and b"BEGIN" in message:
            _refuse(client, b"transaction blocks not allowed in statement pooling mode")
            return False
        _send(server, (kind, message))
        if kind not in (b"S", b"Q"):
            continue
        while (answer := _message(server))[0] != _READY:
            _send(client, answer)
        _send(client, answer)
        if answer[1] == _IDLE:
            return True


def _refuse(client: socket.socket, sentence: bytes) -> None:
    _send(client, (b"E", b"SFATAL\0VFATAL\0C08P01\0M" + sentence + b"\0\0"))


def _exactly(source: socket.socket, size: int) -> bytes:
    parts = b""
    while len(parts) < size:
        part = source.recv(size - len(parts))
        if not part:
            raise ConnectionError
        parts += part
    return parts


def _message(source: socket.socket) -> Message:
    kind = _exactly(source, 1)
    [size] = struct.unpack("!i", _exactly(source, 4))
    return kind, _exactly(source, size - 4)


def _send(target: socket.socket, message: Message) -> None:
    target.sendall(message[0] + struct.pack("!i", len(message[1]) + 4) + message[1])
