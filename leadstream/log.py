"""Structured logs: one event a line, on standard error; lead ids only as keyed hashes."""

import hashlib
import logging
import re
import secrets
import sys
import time
from collections.abc import Callable

import structlog

from leadstream.settings import LogFormat, Settings

Logger = structlog.stdlib.BoundLogger
REPEAT_SECONDS = 30.0
_NUMBERS = re.compile(r"\d+")
_OTHER_KIND = "property and will be ignored by this"

# For clients whose own lines would stand beside a sentence, or in a view, that says the same: what matters is raised.
SILENT = logging.Logger("librdkafka")
SILENT.addHandler(logging.NullHandler())


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
        wrapper_class=structlog.make_filtering_bound_logger(
            getattr(logging, settings.log_level.upper())
        ),
        logger_factory=lambda *_: structlog.PrintLogger(
            sys.stderr
        ),  # the one of now: who redirects it gets the rest
        cache_logger_on_first_use=False,
    )


def silence() -> None:
    """Write nothing: a view that has the whole terminal would be written over, and findings say it in words."""
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())


def get_logger() -> Logger:
    """The logger of this process."""
    logger: Logger = structlog.get_logger()
    return logger


def id_hasher(key: str | None) -> Callable[[bytes | None], str | None]:
    """A keyed hash (BLAKE2b, 64 bits, hex) for lead ids in logs; without a key a new one is drawn for this process."""
    secret = hashlib.sha256(key.encode() if key else secrets.token_bytes(32)).digest()

    def hash_id(lead_id: bytes | None) -> str | None:
        return (
            None
            if lead_id is None
            else hashlib.blake2b(lead_id, key=secret, digest_size=8).hexdigest()
        )

    return hash_id


def client_logger(name: str = "librdkafka", event: str = "kafka.client") -> logging.Logger:
    """The logger to hand to a Kafka client, so that what librdkafka says is one structured line too; or another's."""
    logger = logging.getLogger(name)
    logger.propagate = False
    logger.handlers = [_Forward(event)]
    return logger


class _Forward(logging.Handler):
    """Says the same thing, but for the numbers in it, at most every 30 seconds."""

    def __init__(self, event: str) -> None:
        super().__init__()
        self._event = event
        self._said: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        detail = record.getMessage()
        cause, now = _NUMBERS.sub("#", detail), time.monotonic()
        # Properties are given to consumers and producers alike: that one of them has no use for some is no news.
        if _OTHER_KIND in detail or now - self._said.get(cause, -REPEAT_SECONDS) < REPEAT_SECONDS:
            return
        self._said[cause] = now
        # An unreachable broker is retried by the client and told by /readyz: no error of this process.
        get_logger().log(min(record.levelno, logging.WARNING), self._event, detail=detail)
