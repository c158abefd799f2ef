"""Erased leads: the nulls for the tables of scores, and what a late or superseded one comes to."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from consumer.scoring.events import EventTable
from consumer.scoring.latest import LatestPerLead
from consumer.scoring.result import PublishedVersions
from consumer.scoring.versions import VERSION_HEADER, Versions
from leadstream.kafka.config import Headers, Record

Ints = NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class Erasures:
    """The messages, `index` (k,), that erase leads, and the nulls of each; `late` are messages."""

    index: Ints
    nulls: list[list[Record]]
    late: Ints
    published: PublishedVersions


def erase_leads(
    table: EventTable, latest: LatestPerLead, versions: Versions | None, topics: Sequence[str]
) -> Erasures:
    """Return the nulls of the erased leads for these topics.

    A DELETED that is older than what was published of its lead is late, and erases nothing.
    """
    rows = latest.erasures.tolist()
    keys = [table.keys[row] for row in rows]
    known_versions = versions.newest(keys).tolist() if versions else [0] * len(keys)
    kept: list[int] = []
    late: list[int] = []
    nulls: list[list[Record]] = []
    published: list[int] = []
    for row, key, ended, known in zip(
        rows, keys, latest.ended.tolist(), known_versions, strict=True
    ):
        if 0 < table.changes.lead_version[row] < known:
            late.append(row)
            continue
        version = max(ended, known)
        kept.append(row)
        nulls.append([null_record(topic, key, version) for topic in topics])
        published.append(version if ended else 0)
    index = np.array(kept, np.intp)
    return Erasures(
        index,
        nulls,
        np.array(late, np.intp),
        PublishedVersions(index, [table.keys[row] for row in kept], np.array(published, np.int64)),
    )


def null_record(topic: str, key: bytes | None, version: int) -> Record:
    """Return the record that erases a lead, with the version that it ends, 0 if unknown."""
    headers: Headers | None = [(VERSION_HEADER, str(version).encode())] if version else None
    return topic, key, None, headers, None


@dataclass(frozen=True, slots=True, eq=False)
class OffsetOrder:
    """The order of a batch in which each change has its own prediction.

    `late` are messages that are older than one before them of their lead, `ended` the version
    that the null of a message ends, and `published` the newest version of each lead.
    """

    late: frozenset[int]
    ended: dict[int, int]
    published: PublishedVersions


def drop_superseded(published: Sequence[PublishedVersions]) -> OffsetOrder:
    """Return which messages of a batch are late by those before them, in the order of offsets."""
    newest: dict[bytes, int] = {}
    late, ended = set[int](), dict[int, int]()
    entries = [
        zip(part.index.tolist(), part.keys, part.versions.tolist(), strict=True)
        for part in published
    ]
    for index, key, version in sorted(chain.from_iterable(entries)):
        if 0 < version < newest.get(key, 0):
            late.add(index)
        elif version:
            newest[key] = version
        elif key in newest:
            ended[index] = newest[key]
    versions = np.array(list(newest.values()), np.int64)
    return OffsetOrder(
        frozenset(late),
        ended,
        PublishedVersions(np.empty(0, np.intp), list(newest), versions),
    )
