"""Reasons as sentences for people: "engagement 82, higher than 9 in 10 leads: +11 points".

A language is a file of templates, `sentences/CODE.toml`. Another one may lie anywhere: its path
takes the place of the code. A file without a field's name has the name of the field itself.
"""

import re
import string
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from leadstream.errors import SettingsError, error_text

FOLDER = Path(__file__).with_name("sentences")
MAX_FILE_BYTES = 100_000
# From this share on, a rank is said of 100 leads; below the second, a lead is like most.
_RARE, _NOTABLE = 0.95, 0.6
# As the consumer writes numbers; other producers may write anything.
_NUMBER = re.compile(r"-?[0-9]{1,16}(\.[0-9]{1,6})?")

_SLOTS = {
    "for": {"reasons"},
    "against": {"reasons"},
    "explanation": {"reasons"},
    "number": {"field", "value", "rank", "points"},
    "category": {"field", "value", "points"},
    "date": {"value", "rank", "points"},
    "missing": {"field", "points"},
    "missing_rate": {"field", "rate", "points"},
    "points": {"points"},
    **{key: {"share", "of"} for key in ("higher", "lower", "older", "newer")},
    "usual": set[str](),
}


@dataclass(frozen=True, slots=True)
class Language:
    """The templates of a language by name, the names of fields, and the decimal sign."""

    templates: Mapping[str, str]
    fields: Mapping[str, str]
    decimal_sign: str

    def field(self, name: str) -> str:
        """Return the name of a field for people; own fields lose the name of their map."""
        if name in self.fields:
            return self.fields[name]
        own = name.split(".", 1)[1] if name.startswith(("numbers.", "categories.")) else name
        return own.replace("_", " ")


@cache
def language(name: str) -> Language:
    """Read a language by its code or the path of its file. Raises SettingsError."""
    path = FOLDER / f"{name}.toml" if name.isalpha() else Path(name)
    known = ", ".join(sorted(each.stem for each in FOLDER.glob("*.toml")))
    try:
        with path.open("rb") as file:
            document = tomllib.loads(file.read(MAX_FILE_BYTES).decode())
    except OSError as error:
        raise SettingsError(
            f"LEADSTREAM_LANGUAGE={name}: cannot be read ({error.strerror}): use one of {known}, "
            "or the path of a file like theirs"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"LEADSTREAM_LANGUAGE={name}: is not TOML ({error_text(error)})"
        ) from None
    return _checked(name, document)


def _checked(name: str, document: Mapping[str, Any]) -> Language:
    """Return the language of a document; raise SettingsError that names the first mistake."""
    parts = [document.get(part, {}) for part in ("sentences", "ranks", "fields")]
    if not all(isinstance(part, dict) for part in parts):
        raise SettingsError(f"LEADSTREAM_LANGUAGE={name}: sentences, ranks, fields must be tables")
    sentences, ranks, fields = parts
    templates = {**document, **sentences, **ranks}
    for key, slots in _SLOTS.items():
        if _slots(templates.get(key)) != slots:
            wanted = ", ".join(f"{{{slot}}}" for slot in sorted(slots)) or "no slot"
            raise SettingsError(f"LEADSTREAM_LANGUAGE={name}: {key} must be a text with {wanted}")
    sign = document.get("decimal_sign", ".")
    if not isinstance(sign, str) or not all(isinstance(each, str) for each in fields.values()):
        raise SettingsError(f"LEADSTREAM_LANGUAGE={name}: names and decimal_sign must be texts")
    return Language({key: templates[key] for key in _SLOTS}, fields, sign)


def _slots(template: Any) -> set[str] | None:
    """Return the names of the slots in a template; None if it is not one."""
    try:
        parts = list(string.Formatter().parse(template))
    except (TypeError, ValueError):
        return None
    if any(spec or conversion for _, _, spec, conversion in parts):
        return None
    return {slot for _, slot, _, _ in parts if slot is not None}


def reason_sentence(reason: Mapping[str, Any], words: Language) -> str:
    """Return one reason of a prediction as a sentence, without a full stop."""
    value, share, texts = reason.get("value"), reason.get("percentile"), words.templates
    parts = {
        "field": words.field(reason["feature"]),
        "points": texts["points"].format(points=_points(reason["contribution"], words)),
    }
    if value is None:
        rate = reason.get("given_rate")
        if rate is None or not 0 <= rate <= 1:
            return texts["missing"].format(**parts)
        return texts["missing_rate"].format(**parts, rate=_percent(rate, words))
    if share is None:
        return texts["category"].format(**parts, value=value)
    if reason["feature"] == "created_at":
        rank = _rank(share, "older", "newer", words)
        return texts["date"].format(**parts, value=value[:10], rank=rank)
    rank = _rank(share, "higher", "lower", words)
    return texts["number"].format(**parts, value=_number(value, words), rank=rank)


def sentences_by_side(
    prediction: Mapping[str, Any], words: Language
) -> tuple[list[str], list[str]]:
    """Return what speaks for the lead, and what against it, each strongest first."""
    reasons: Sequence[Mapping[str, Any]] = prediction["reasons"]
    sides: tuple[list[str], list[str]] = ([], [])
    for reason in reasons:
        sides[reason["contribution"] < 0].append(reason_sentence(reason, words))
    return sides


def explanation(prediction: Mapping[str, Any], words: Language) -> str:
    """Return the reasons of a prediction as one text; empty if it has none."""
    sides = zip(("for", "against"), sentences_by_side(prediction, words), strict=True)
    texts = [words.templates[side].format(reasons="; ".join(each)) for side, each in sides if each]
    return " ".join(words.templates["explanation"].format(reasons=text) for text in texts)


def _points(contribution: float, words: Language) -> str:
    """Return points with a sign: whole from ten on, else to one decimal."""
    points = contribution * 100
    text = f"{points:+.0f}" if abs(points) >= 9.95 else f"{points:+.1f}"
    return text.replace(".", words.decimal_sign)


def _percent(share: float, words: Language) -> str:
    """Return a share in percent: whole from ten on, else to one decimal."""
    text = f"{share * 100:.0f} %" if share >= 0.0995 else f"{share * 100:.1f} %"
    return text.replace(".", words.decimal_sign)


def _number(value: str, words: Language) -> str:
    """Return a number to two decimals, or as it is if it is smaller than one or no number."""
    if not _NUMBER.fullmatch(value):
        return value
    if "." in value and abs(float(value)) >= 1:
        value = f"{float(value):.2f}".rstrip("0").rstrip(".")
    return value.replace(".", words.decimal_sign)


def _rank(share: float, above: str, below: str, words: Language) -> str:
    """Return where a lead stands among the training leads; never more than is true."""
    side, part = (above, share) if share >= 0.5 else (below, 1 - share)
    if not _NOTABLE <= part <= 1:  # as with most leads, or no share at all
        return words.templates["usual"]
    of = 100 if part >= _RARE else 10
    return words.templates[side].format(share=min(int(part * of + 1e-9), of - 1), of=of)
