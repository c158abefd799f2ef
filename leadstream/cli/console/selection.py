"""Which letters a page is about: the words of its address, the same as those of the verbs."""

from collections.abc import Mapping
from urllib.parse import urlencode

from consumer.dead_letters.selection import Filter
from leadstream.cli.dead_letters.times import moment
from leadstream.errors import SettingsError

NAMES = ("reason", "fingerprint", "lead", "since", "until", "partition", "offset", "limit", "all")


def words_of(said: Mapping[str, str]) -> dict[str, str]:
    """Those of the words that choose letters, and are not empty."""
    return {name: text for name in NAMES if (text := said.get(name, "").strip())}


def filter_of(words: Mapping[str, str]) -> Filter:
    """The filter that they mean. Raises SettingsError."""
    return Filter(
        reason=words.get("reason"),
        fingerprint=words.get("fingerprint"),
        lead=words.get("lead"),
        since=moment("since", words.get("since")),
        until=moment("until", words.get("until")),
        partition=number("partition", words),
        offset=number("offset", words),
        limit=number("limit", words, least=1),
        everything="all" in words,
    )


def number(name: str, words: Mapping[str, str], least: int = 0) -> int | None:
    """A whole number among the words, or None. Raises SettingsError."""
    text = words.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal()) or len(text) > 18 or int(text) < least:
        raise SettingsError(f"{name} {text}: write a whole number, {least} or more")
    return int(text)


def address(path: str, words: Mapping[str, str], **changed: object) -> str:
    """A path with the words as its query; those that are changed to None are left out."""
    said = {**words, **{name: str(value) for name, value in changed.items() if value is not None}}
    kept = {
        name: text
        for name, text in said.items()
        if name not in changed or changed[name] is not None
    }
    return f"{path}?{urlencode(kept)}" if kept else path
