"""Originals of cut letters, read from the topics that they came from while they are there."""

import hashlib
from dataclasses import replace

from consumer.dead_letters.letters import Letter
from leadstream.errors import UserError
from leadstream.kafka.batch import Message, read_headers
from leadstream.kafka.topic_reader import TopicReader
from leadstream.settings import Settings


def restore(settings: Settings, letter: Letter) -> Letter:
    """Return a cut letter with the key, the value and the headers of its original.

    Any other letter is returned as it is, and so is one whose original is gone, with `lost` set.
    Raises Transient.
    """
    if letter.parsed.cut is None:
        return letter
    original = _read(settings, letter)
    if original is None or not _is_same(letter, original):
        return replace(letter, lost=True)
    return replace(
        letter,
        key=original.key(),
        value=original.value(),
        original_headers=read_headers(original),
        restored=True,
    )


def _read(settings: Settings, letter: Letter) -> Message | None:
    """Return the record at the origin of a letter, or None if it is no longer there."""
    topic, partition, offset = letter.parsed.topic, letter.parsed.partition, letter.parsed.offset
    if topic is None or partition is None or offset is None:
        return None
    log = TopicReader(settings, topic)
    try:
        if partition not in log.partitions():
            return None
        low, high = log.bounds(partition)
        if not low <= offset < high:
            return None
        found = log.read({partition: offset}, {partition: offset + 1})
        return next((message for message in found if message.offset() == offset), None)
    except UserError:
        return None  # the topic was deleted, or this account may not read it
    finally:
        log.close()


def _is_same(letter: Letter, original: Message) -> bool:
    """Return whether a record is the original: a topic may have been deleted and made again."""
    cut, value = letter.parsed.cut, original.value()
    if cut is None or cut.value_sha256 is None or value is None:
        return value == letter.value
    return hashlib.sha256(value).hexdigest() == cut.value_sha256
