"""The query of a page: the same filters as those of the verbs."""

from collections.abc import Mapping
from urllib.parse import urlencode

from consumer.dead_letters.selection import Filter
from leadstream.cli.dead_letters.times import parse_time
from leadstream.errors import SettingsError

NAMES = ("reason", "fingerprint", "lead", "since", "until", "partition", "offset", "limit", "all")


def query_of(params: Mapping[str, str]) -> dict[str, str]:
    """Return the parameters that select letters and are not empty."""
    return {name: text for name in NAMES if (text := params.get(name, "").strip())}


def filter_of(query: Mapping[str, str]) -> Filter:
    """Return the filter of a query. Raises SettingsError."""
    return Filter(
        reason=query.get("reason"),
        fingerprint=query.get("fingerprint"),
        lead=query.get("lead"),
        since=parse_time("since", query.get("since")),
        until=parse_time("until", query.get("until")),
        partition=number("partition", query),
        offset=number("offset", query),
        limit=number("limit", query, min_value=1),
        everything="all" in query,
    )


def number(name: str, query: Mapping[str, str], min_value: int = 0) -> int | None:
    """Return a whole number of a query, or None. Raises SettingsError."""
    text = query.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal()) or len(text) > 18 or int(text) < min_value:
        raise SettingsError(f"{name} {text}: write a whole number, {min_value} or more")
    return int(text)


def address(path: str, query: Mapping[str, str], **changed: object) -> str:
    """Return a path with a query; a change to None removes a parameter."""
    params = {**query, **{name: str(value) for name, value in changed.items() if value is not None}}
    kept = {
        name: text
        for name, text in params.items()
        if name not in changed or changed[name] is not None
    }
    return f"{path}?{urlencode(kept)}" if kept else path
