"""Checks of the keys and options in a TOML file, each with its own sentence."""

from collections.abc import Mapping, Set
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from schemas.month_names import INSTALL, is_locale


class WrongKey(Exception):
    """A key with a wrong value; the reader of the file turns it into a SettingsError."""

    def __init__(self, key: str, what: str) -> None:
        self.key, self.what = key, what


def known(table: Mapping[str, Any], key: str, names: Set[str]) -> None:
    """Raise WrongKey for a name in the table that is none of `names`."""
    for name in table:
        if name not in names:
            raise WrongKey(
                f"{key}.{name}".lstrip("."),
                f"is not known here; there are {', '.join(sorted(names))}",
            )


def table_of(table: Mapping[str, Any], name: str, key: str) -> dict[str, Any]:
    """Return the table under a name; an absent one is empty."""
    value = table.get(name, {})
    if not isinstance(value, dict):
        raise WrongKey(key, "must be a table")
    return value


def text_of(table: Mapping[str, Any], key: str, default: str | None) -> str:
    """Return the text under the last part of the key; it is required without a default."""
    value = table.get(key.rpartition(".")[2], default)
    if not isinstance(value, str):
        raise WrongKey(key, "must be text" if value is not None else "is missing")
    return value


def texts_of(table: Mapping[str, Any], key: str, name: str | None = None) -> frozenset[str]:
    """Return the list of texts under the name, or under the last part of the key."""
    value = table.get(name or key.rpartition(".")[2], [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise WrongKey(key, "must be a list of texts")
    return frozenset(value)


def number_of(table: Mapping[str, Any], key: str, default: float) -> float:
    """Return the finite number under the last part of the key."""
    value = table.get(key.rpartition(".")[2], default)
    if isinstance(value, bool) or not isinstance(value, int | float) or value - value != 0:
        raise WrongKey(key, "must be a number")
    return float(value)


def zone_of(name: str, key: str) -> ZoneInfo:
    """Return the time zone of this name."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise WrongKey(key, f"{name!r} is not a time zone, for example Europe/Berlin") from None


def units_of(table: Mapping[str, Any], key: str) -> frozenset[str]:
    """Return the words next to a number that are left out: a text, or a list of texts."""
    units = table.get("unit", [])
    return texts_of({"unit": [units] if isinstance(units, str) else units}, key)


def checked_locale(name: str | None, key: str) -> str | None:
    """Return the name of a locale that Babel knows, or None without one."""
    if name is None:
        return None
    try:
        found = is_locale(name)
    except ImportError:
        raise WrongKey(key, INSTALL) from None
    if not found:
        raise WrongKey(key, f"{name!r} is not a locale, for example de or pt_BR")
    return name
