"""Erased leads: the nulls for the tables of scores. An erasure is never late."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, repeat

import numpy as np
from numpy.typing import NDArray

from consumer.scoring.erased import source_headers
from consumer.scoring.events import EventTable
from consumer.scoring.latest import LatestPerLead
from consumer.scoring.result import PublishedVersions
from consumer.scoring.versions import VERSION_HEADER, Versions
from leadstream.kafka.batch import Batch
from leadstream.kafka.config import Headers, Record

Ints = NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class Erasures:
    """The messages, `index` (k,), that erase leads, and the nulls of each."""

    index: Ints
    nulls: list[list[Record]]
    published: PublishedVersions


def erase_leads(
    batch: Batch,
    table: EventTable,
    latest: LatestPerLead,
    versions: Versions | None,
    topics: Sequence[str],
) -> Erasures:
    """Return the nulls of the erased leads for these topics.

    A DELETED with a lower version than what was published of its lead erases it all the same:
    a score that should be gone is worse than one that is missing.
    """
    rows = latest.erasures.tolist()
    keys = [table.keys[row] for row in rows]
    known_versions = [0] * len(keys) if versions is None else versions.newest(keys).tolist()
    nulls: list[list[Record]] = []
    published: list[int] = []
    for row, key, ended, known in zip(
        rows, keys, latest.ended.tolist(), known_versions, strict=True
    ):
        version = max(ended, known)
        topic, partition = batch.places.values[batch.places.codes[row]]
        source = source_headers(topic, partition, int(batch.offsets[row]))
        nulls.append([_null_record(each, key, version, source) for each in topics])
        published.append(version if ended else 0)
    return Erasures(
        latest.erasures,
        nulls,
        PublishedVersions(latest.erasures, keys, np.array(published, np.int64)),
    )


def _null_record(topic: str, key: bytes | None, version: int, source: Headers) -> Record:
    """Return the record that erases a lead; its headers name the change that did.

    They also have the version that it ends, if that is not 0, which is unknown.
    """
    return topic, key, None, [*_ends(version), *source], None


def with_version(null: Record, version: int) -> Record:
    """Return a null that says it ends this version."""
    topic, key, value, headers, timestamp = null
    kept = [header for header in headers or () if header[0] != VERSION_HEADER]
    return topic, key, value, [*_ends(version), *kept], timestamp


def _ends(version: int) -> Headers:
    return [(VERSION_HEADER, str(version).encode())] if version else []


@dataclass(frozen=True, slots=True, eq=False)
class OffsetOrder:
    """The order of a batch in which each change has its own prediction.

    `late` are changes that are older than a message before them of their lead, `ended` the version
    that the null of a message ends, and `published` the newest version of each lead.
    """

    late: frozenset[int]
    ended: dict[int, int]
    published: PublishedVersions


def drop_superseded(
    erasures: PublishedVersions, changes: Sequence[PublishedVersions]
) -> OffsetOrder:
    """Return which changes of a batch are late by messages before them, in the order of offsets."""
    newest: dict[bytes, int] = {}
    late, ended = set[int](), dict[int, int]()
    entries = [
        zip(part.index.tolist(), part.keys, part.versions.tolist(), repeat(part is erasures))
        for part in (erasures, *changes)
    ]
    for index, key, version, erases in sorted(chain.from_iterable(entries)):
        if erases:
            if ends := max(version, newest.get(key, 0)):
                newest[key] = ended[index] = ends
        elif 0 < version < newest.get(key, 0):
            late.add(index)
        elif version:
            newest[key] = version
    versions = np.array(list(newest.values()), np.int64)
    return OffsetOrder(
        frozenset(late),
        ended,
        PublishedVersions(np.empty(0, np.intp), list(newest), versions),
    )
