"""The versions that other processes published, read when partitions are assigned."""

from collections.abc import Callable, Collection, Sequence
from itertools import islice

import numpy as np

from consumer.scoring.erased import PublishedErasures
from consumer.scoring.versions import VERSION_HEADER, Versions
from leadstream.errors import Poison, Transient, UserError
from leadstream.kafka.batch import Message, Partition, read_headers
from leadstream.kafka.topic_reader import NoTopic, TopicOffsets, TopicReader
from leadstream.settings import Settings
from schemas.codec import Reader
from schemas.columns import COMPILED, ColumnReader, use_columns
from schemas.registry import Registry

# For all partitions together. Reading more would delay a start longer than it helps.
MAX_RECORDS = 1 << 17
CHUNK_RECORDS = 2_000
QUIET_SECONDS = 2.0
# A reader that ends soon fetches less ahead than a stream.
_SMALL = {"queued.min.messages": 2 * CHUNK_RECORDS, "queued.max.messages.kbytes": 2_048}


class Recall:
    """Reads the newest predictions into `versions`; without versions, only nulls.

    It reads again before the first batch of each partition since an assignment. That batch shows
    that no transaction of an earlier owner has offsets of the partition left to commit. Before it,
    an earlier owner may still publish.

    It reads the predictions topic to its very end. The predictions of a transaction may not be
    visible yet when its offsets are already committed. So it waits for open transactions, as every
    subscriber of committed data does. It reads all partitions: producers may partition changes
    differently from predictions. `erased` learns which change erased each lead. `beat` shows that
    the loop turns.
    """

    def __init__(
        self,
        settings: Settings,
        registry: Registry | None,
        versions: Versions | None,
        erased: PublishedErasures | None = None,
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        self._everything = False
        self._read_before: set[Partition] = set()
        self._erased = erased or PublishedErasures()
        self._beat = beat
        self._settings = settings
        self._versions = versions
        self._reader = Reader("LeadPrediction", registry)
        self._columns: ColumnReader | None = None
        self._knows_releases = False
        self._next: dict[int, int] = {}

    def assigned(self) -> None:
        """Read before the next batch of each partition: others may have published meanwhile."""
        self._read_before.clear()

    def read_everything(self) -> None:
        """Read all records the next time: the group may read changes again that are that old."""
        self._everything = True
        self._next.clear()

    def __call__(self, places: Collection[Partition]) -> None:
        """Read the records since the last time, at most MAX_RECORDS, or all of them.

        Does nothing if that was done for all partitions of the batch, `places`. Raises Transient;
        then the next call tries again.
        """
        if not self._everything and self._read_before.issuperset(places):
            return
        if COMPILED and self._columns is None:
            self._columns = ColumnReader(self._reader, ("source_topic", "lead_version"))
        if not self._knows_releases:
            self._reader.learn_releases(self._settings.topics.lead_predictions)
            self._knows_releases = True
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
        self._everything = False
        self._read_before.update(places)

    def _read(self, log: TopicReader, versions: Versions | None) -> None:
        try:
            partitions = log.partitions()
        except NoTopic:
            return  # nothing was published
        except UserError as error:
            raise Transient("brokers", str(error)) from error
        ends = TopicOffsets(self._settings).ends(log.topic, partitions)
        share = MAX_RECORDS // len(partitions)
        starts = {
            p: max(self._next.get(p, 0), 0 if self._everything else end - share)
            for p, end in ends.items()
        }
        messages = log.read(starts, ends)
        while some := list(islice(messages, CHUNK_RECORDS)):
            self._beat()
            for message in some:
                if message.value() is None:
                    self._erased.note(message, self._settings.topics.lead_changes)
            if versions is not None:
                self._take(some, versions)
            self._next |= {message.partition(): message.offset() + 1 for message in some}
        self._next = ends

    def _take(self, messages: Sequence[Message], versions: Versions) -> None:
        """Remember the versions in their order: the last record of a lead counts."""
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
        """Return the lead_version of each prediction of a change, and 0 for anything else."""
        topic = self._settings.topics.lead_changes
        left, found = list(range(len(messages))), [0] * len(messages)
        if self._columns is not None and use_columns(len(messages)):
            table = self._columns.decode([message.value() for message in messages])
            sources = table.columns["source_topic"].dictionary_encode()
            of_changes = np.array([value == topic for value in sources.values], np.bool_)[
                sources.codes
            ]
            found = np.where(table.decoded & of_changes, table.columns["lead_version"], 0).tolist()
            left = np.flatnonzero(~table.decoded).tolist()
        for place in left:
            value = messages[place].value()
            if value is not None:
                found[place] = self._version(value, topic)
        return found

    def _version(self, value: bytes, topic: str) -> int:
        try:
            record = self._reader.decode(value)
        except Poison:
            return 0  # not a prediction
        return int(record["lead_version"]) if record["source_topic"] == topic else 0


def _ended(null: Message) -> int:
    """Return the version that a null ends, 0 if it names none."""
    for name, value in read_headers(null):
        if name == VERSION_HEADER and value is not None and value.isdigit():
            return int(value)
    return 0
