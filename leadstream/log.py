"""Structured logs: one event per line on standard error, with lead ids as keyed hashes only."""

import hashlib
import logging
import re
import secrets
import sys
import time
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, TextIO, cast

import structlog

from leadstream.console_lines import ConsoleLines
from leadstream.errors import Poison
from leadstream.settings import LogFormat, Settings
from leadstream.terminal import clean, clean_line, error_stream

if TYPE_CHECKING:
    from leadstream.kafka.batch import Message

Logger = structlog.stdlib.BoundLogger
Event = structlog.typing.EventDict
REPEAT_SECONDS = 30.0
_NUMBERS = re.compile(r"\d+")
_OTHER_KIND = "property and will be ignored by this"

# For clients whose problems are raised and reported elsewhere: their own lines would repeat them.
SILENT = logging.Logger("librdkafka")
SILENT.addHandler(logging.NullHandler())


def configure(settings: Settings, process: str = "leadstream") -> None:
    """Configure structlog for this process: JSON lines, or lines for people on a terminal.

    `process` is the name of the verb, which every line has.
    """
    on_terminal = sys.stderr is not None and sys.stderr.isatty()
    console = settings.log_format is LogFormat.CONSOLE or (
        settings.log_format is LogFormat.AUTO and on_terminal
    )
    renderer: list[structlog.typing.Processor] = (
        [_clean_values, ConsoleLines(terminal=on_terminal)]
        if console
        else [structlog.processors.JSONRenderer(), lambda _logger, _method, line: clean(str(line))]
    )

    def name_process(_logger: object, _method: str, event: Event) -> Event:
        return {**event, "process": process}

    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S" if console else "iso", utc=not console),
            name_process,
            structlog.processors.format_exc_info,
            *renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            getattr(logging, settings.log_level.upper())
        ),
        # Looked up at each use, so that a redirection of standard error takes effect.
        logger_factory=lambda *_: structlog.WriteLogger(cast("TextIO", error_stream())),
        cache_logger_on_first_use=False,
    )


def _clean_values(_logger: object, _method: str, event: Event) -> Event:
    """Clean the texts of a line; only a trace may have lines of its own."""
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = clean(value) if name == "exception" else clean_line(value)
    return event


def silence() -> None:
    """Write no log lines: for verbs that use the whole terminal or print findings."""
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())


@cache
def announce_compilation() -> None:
    """Say once that this process compiles, which takes seconds: in the log, or on a terminal."""
    what = (
        "the first start of this version on this machine compiles for some 10 seconds; "
        "the next ones read the result from disk"
    )
    if structlog.is_configured():
        get_logger().info("compiling", detail=what)
    elif sys.stderr is not None and sys.stderr.isatty():
        sys.stderr.write(f"leadstream: {what}\n")


def get_logger() -> Logger:
    """Return the logger of this process."""
    logger: Logger = structlog.get_logger()
    return logger


def warn_skipped(logger: Logger, message: "Message", poison: Poison) -> None:
    """Log a record that cannot be read."""
    logger.warning(
        "record.skipped",
        reason=poison.reason.value,
        detail=poison.detail,
        topic=message.topic(),
        partition=message.partition(),
        offset=message.offset(),
    )


def id_hasher(key: str | None) -> Callable[[bytes | None], str | None]:
    """Return a function that hashes lead ids for logs: keyed BLAKE2b, 64 bits, in hex.

    Without a key, this process draws one of its own.
    """
    secret = hashlib.sha256(key.encode() if key else secrets.token_bytes(32)).digest()

    def hash_id(lead_id: bytes | None) -> str | None:
        return (
            None
            if lead_id is None
            else hashlib.blake2b(lead_id, key=secret, digest_size=8).hexdigest()
        )

    return hash_id


def client_logger(name: str = "librdkafka", event: str = "kafka.client") -> logging.Logger:
    """Return a logger for a client, librdkafka by default, that writes structured lines."""
    logger = logging.getLogger(name)
    logger.propagate = False
    # One handler for all clients of a name: it remembers what earlier ones wrote.
    if not any(isinstance(handler, _Forward) for handler in logger.handlers):
        logger.handlers = [_Forward(event)]
    return logger


class _Forward(logging.Handler):
    """A handler that repeats a message, apart from its numbers, at most every 30 seconds."""

    def __init__(self, event: str) -> None:
        super().__init__()
        self._event = event
        self._written: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        detail = record.getMessage()
        cause, now = _NUMBERS.sub("#", detail), time.monotonic()
        # Consumers and producers get the same properties, and each ignores those of the other.
        if _OTHER_KIND in detail:
            return
        if now - self._written.get(cause, -REPEAT_SECONDS) < REPEAT_SECONDS:
            return
        self._written[cause] = now
        # The client retries unreachable brokers and /readyz reports them: not an error of ours.
        get_logger().log(min(record.levelno, logging.WARNING), self._event, detail=detail)
