"""A record of zeros in a batch that is compressed with zstd, as a Java client streams it.

Its frame does not say how long the content is, so a client has to find out.
"""

import socket
import struct

_ZSTD = 4
_BLOCK = 128 * 1024


def send_zeros(bootstrap: str, topic: str, key: bytes, size: int) -> None:
    """Append a record with a value of `size` zeros to partition 0 of a topic."""
    head = _varint(len(key)) + key + _varint(size)
    # Attributes, the two deltas; the number of headers is one more zero after the value.
    body = b"\0\0\0" + head
    body = _varint(len(body) + size + 1) + body
    batch = _batch(_frame(body, size + 1))
    host, _, port = bootstrap.partition(",")[0].rpartition(":")
    with socket.create_connection((host, int(port)), timeout=30) as server:
        name = topic.encode()
        request = struct.pack("!hhih", 0, 7, 1, -1)  # Produce, version 7, without a client id
        request += struct.pack("!hhi", -1, -1, 30_000)
        request += struct.pack("!ih", 1, len(name)) + name
        request += struct.pack("!iii", 1, 0, len(batch)) + batch
        server.sendall(struct.pack("!i", len(request)) + request)
        answer = server.makefile("rb")
        [length] = struct.unpack("!i", answer.read(4))
        body = answer.read(length)
        [code] = struct.unpack_from("!h", body, 4 + 4 + 2 + len(name) + 4 + 4)
        assert code == 0, code


def _frame(head: bytes, zeros: int) -> bytes:
    """Return a zstd frame without its content's size: raw bytes, then runs of zeros."""
    frame = b"\x28\xb5\x2f\xfd" + b"\x00" + b"\x58" + _block(len(head), 0) + head
    while zeros > 0:
        run = min(zeros, _BLOCK)
        zeros -= run
        frame += _block(run, 1, last=not zeros) + b"\0"
    return frame


def _block(size: int, kind: int, *, last: bool = False) -> bytes:
    return (size << 3 | kind << 1 | last).to_bytes(3, "little")


def _batch(records: bytes) -> bytes:
    now = 1_700_000_000_000
    tail = struct.pack("!hiqqqhii", _ZSTD, 0, now, now, -1, -1, -1, 1) + records
    checked = struct.pack("!I", _crc32c(tail)) + tail
    body = struct.pack("!ib", -1, 2) + checked
    return struct.pack("!qi", 0, len(body)) + body


def _varint(number: int) -> bytes:
    value, found = number << 1, b""
    while value > 127:
        found += bytes([value & 127 | 128])
        value >>= 7
    return found + bytes([value])


def _crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF
