"""Records as only clients of other languages send them: with header names that are not UTF-8.

confluent-kafka encodes names from texts, so librdkafka is called by its C interface.
"""

import ctypes
from collections.abc import Sequence
from pathlib import Path

import confluent_kafka

_TOPIC, _VALUE, _KEY, _FLAGS, _HEADERS, _END = 1, 4, 5, 7, 10, 0
_COPY = 2


def send_raw(
    bootstrap: str, topic: str, key: bytes, value: bytes, headers: Sequence[tuple[bytes, bytes]]
) -> None:
    """Send one record, and wait until the broker has it."""
    client = _library()
    problem = ctypes.create_string_buffer(512)
    config = ctypes.c_void_p(client.rd_kafka_conf_new())
    name = b"bootstrap.servers"
    assert client.rd_kafka_conf_set(config, name, bootstrap.encode(), problem, 512) == 0, problem
    producer = ctypes.c_void_p(client.rd_kafka_new(0, config, problem, 512))
    assert producer.value, problem.value
    try:
        _produce(client, producer, topic, key, value, headers)
        assert client.rd_kafka_flush(producer, 30_000) == 0
    finally:
        client.rd_kafka_destroy(producer)


def _produce(
    client: ctypes.CDLL,
    producer: ctypes.c_void_p,
    topic: str,
    key: bytes,
    value: bytes,
    headers: Sequence[tuple[bytes, bytes]],
) -> None:
    held = ctypes.c_void_p(client.rd_kafka_headers_new(len(headers)))
    for name, content in headers:
        sizes = [ctypes.c_ssize_t(len(part)) for part in (name, content)]
        assert client.rd_kafka_header_add(held, name, sizes[0], content, sizes[1]) == 0
    code = client.rd_kafka_producev(
        producer,
        *(_TOPIC, ctypes.c_char_p(topic.encode())),
        *(_VALUE, ctypes.c_char_p(value), ctypes.c_size_t(len(value))),
        *(_KEY, ctypes.c_char_p(key), ctypes.c_size_t(len(key))),
        *(_FLAGS, _COPY),
        *(_HEADERS, held),
        _END,
    )
    assert code == 0, code


def _library() -> ctypes.CDLL:
    folder = Path(confluent_kafka.__file__).parents[1] / "confluent_kafka.libs"
    client = ctypes.CDLL(str(next(folder.glob("librdkafka-*"))))
    for name in ("rd_kafka_conf_new", "rd_kafka_new", "rd_kafka_headers_new"):
        getattr(client, name).restype = ctypes.c_void_p
    return client
