"""What others published of the leads that are now this process's: the newest predictions, read at an assignment."""

from collections.abc import Sequence
from itertools import islice

import numpy as np

from consumer.scoring.versions import VERSION_HEADER, Versions
from leadstream.errors import Poison, Transient, UserError
from leadstream.kafka.batch import Message
from leadstream.kafka.topic_reader import NoTopic, TopicOffsets, TopicReader
from leadstream.settings import Settings
from schemas.codec import Reader
from schemas.columns import COMPILED, ColumnReader, use_columns
from schemas.registry import Registry

# Of all partitions together; with more a start would take longer than what it protects from.
TAIL = 1 << 17
AT_ONCE = 2_000
QUIET_SECONDS = 2.0
# Read once and given back: not as much fetched ahead as for a stream.
_SMALL = {"queued.min.messages": 2 * AT_ONCE, "queued.max.messages.kbytes": 2_048}


class Recall:
    """Brings versions up to date when it is `due`; without versions there is nothing to do.

    The predictions topic is read up to all that stands in it, committed or not: of a transaction whose offsets this
    process goes on from, the predictions may still be about to become visible. So it waits for the transactions that
    are open, as every subscriber of committed data does. Which changes partition a lead belongs to does not matter:
    who sends changes may partition them otherwise than predictions are.
    """

    def __init__(
        self, settings: Settings, registry: Registry | None, versions: Versions | None
    ) -> None:
        self.due = False
        self._settings = settings
        self._versions = versions
        self._reader = Reader("LeadPrediction", registry)
        self._columns: ColumnReader | None = None
        self._next: dict[int, int] = {}

    def __call__(self) -> None:
        """Read what came since the last time, at most TAIL records. Raises Transient: then it is still due."""
        if not self.due or self._versions is None:
            return
        if COMPILED and self._columns is None:
            self._columns = ColumnReader(self._reader, ("source_topic", "lead_version"))
        log = TopicReader(
            self._settings,
            self._settings.topics.lead_predictions,
            quiet=QUIET_SECONDS,
            properties=_SMALL,
        )
        try:
            self._read(log, self._versions)
        finally:
            log.close()
        self.due = False

    def _read(self, log: TopicReader, versions: Versions) -> None:
        try:
            partitions = log.partitions()
        except NoTopic:
            return  # nothing was published
        except UserError as error:
            raise Transient("brokers", str(error)) from error
        ends = TopicOffsets(self._settings).ends(log.topic, partitions)
        share = TAIL // len(partitions)
        messages = log.read(
            {p: max(self._next.get(p, 0), end - share, 0) for p, end in ends.items()}, ends
        )
        while some := list(islice(messages, AT_ONCE)):
            self._take(some, versions)
            self._next |= {message.partition(): message.offset() + 1 for message in some}
        self._next = ends

    def _take(self, messages: Sequence[Message], versions: Versions) -> None:
        """In their order: what stands last of a lead is what the table of scores has of it."""
        nulls = [
            key
            for message in messages
            if message.value() is None and (key := message.key()) is not None
        ]
        found = dict(zip(nulls, versions.newest(nulls).tolist(), strict=True))
        for message, version in zip(messages, self._versions_in(messages), strict=True):
            key = message.key() or b""
            if message.value() is None:
                found[key] = max(found.get(key, 0), _ended(message))
            elif version:
                found[key] = version
        versions.put(list(found), np.array(list(found.values()), np.int64))

    def _versions_in(self, messages: Sequence[Message]) -> list[int]:
        """The lead_version of each prediction of a change; 0 of what is none."""
        topic = self._settings.topics.lead_changes
        left, told = list(range(len(messages))), [0] * len(messages)
        if self._columns is not None and use_columns(len(messages)):
            table = self._columns.decode([message.value() for message in messages])
            sources = table.columns["source_topic"].dictionary_encode()
            of_changes = np.array([value == topic for value in sources.values], np.bool_)[
                sources.codes
            ]
            told = np.where(table.decoded & of_changes, table.columns["lead_version"], 0).tolist()
            left = np.flatnonzero(~table.decoded).tolist()
        for place in left:
            value = messages[place].value()
            if value is not None:
                told[place] = self._version(value, topic)
        return told

    def _version(self, value: bytes, topic: str) -> int:
        try:
            record = self._reader.decode(value)
        except Poison:
            return 0  # whatever it is, it is no prediction
        return int(record["lead_version"]) if record["source_topic"] == topic else 0


def _ended(null: Message) -> int:
    """The version that a null ends; 0 where it does not say."""
    for name, value in null.headers() or ():
        if name == VERSION_HEADER and value is not None and value.isdigit():
            return int(value)
    return 0
