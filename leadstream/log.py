"""Structured logs: one event a line, on standard error; lead ids only as keyed hashes."""

import hashlib
import logging
import secrets
import sys
from collections.abc import Callable

import structlog

from leadstream.settings import LogFormat, Settings

Logger = structlog.stdlib.BoundLogger


def configure(settings: Settings) -> None:
    """Set up structlog for this process: JSON lines, or coloured columns on a terminal."""
    console = settings.log_format is LogFormat.CONSOLE or (
        settings.log_format is LogFormat.AUTO and sys.stderr.isatty()
    )
    renderer: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer()]
        if console
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, settings.log_level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


def get_logger() -> Logger:
    """The logger of this process."""
    logger: Logger = structlog.get_logger()
    return logger


def id_hasher(key: str | None) -> Callable[[bytes | None], str | None]:
    """A keyed hash (BLAKE2b, 64 bits, hex) for lead ids in logs; without a key a new one is drawn for this process."""
    secret = hashlib.sha256(key.encode() if key else secrets.token_bytes(32)).digest()

    def hash_id(lead_id: bytes | None) -> str | None:
        return None if lead_id is None else hashlib.blake2b(lead_id, key=secret, digest_size=8).hexdigest()

    return hash_id


def client_logger() -> logging.Logger:
    """The logger to hand to a Kafka client, so that what librdkafka says is one structured line too."""
    logger = logging.getLogger("librdkafka")
    logger.propagate = False
    logger.handlers = [_Forward()]
    return logger


class _Forward(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        # An unreachable broker is retried by the client and told by /readyz: no error of this process.
        get_logger().log(min(record.levelno, logging.WARNING), "kafka.client", detail=record.getMessage())
