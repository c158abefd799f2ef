"""A CRM's own fields as inputs, from the document of a specification file (features.toml)."""

from collections.abc import Mapping
from typing import Any

from features.spec import CATEGORY, MEDIAN, NUMBER, FeatureSpec
from leadstream.errors import SettingsError
from leadstream.lead_fields import MAX_CATEGORY_CHARACTERS, MAX_NUMBER

_KEYS = {
    "number": {"name", "type", "range", "imputation", "description"},
    "category": {"name", "type", "imputation", "description"},
}


def own_fields(document: Mapping[str, Any]) -> tuple[FeatureSpec, ...]:
    """Return the inputs that a list of tables `feature` describes, in its order.

    A number has a `range` ([low, high], both valid) and an `imputation` ("median" or a number in
    the range); an absent category is "missing". `name` is the key in the maps of LeadState. Raises
    SettingsError that names the first mistake.
    """
    rows = document.get("feature")
    if set(document) != {"feature"} or not isinstance(rows, list):
        raise SettingsError(
            "a feature specification is a list of tables [[feature]], and nothing else"
        )
    return tuple(_spec(row, f"feature {position}") for position, row in enumerate(rows, start=1))


def _spec(row: Any, where: str) -> FeatureSpec:
    name = row.get("name") if isinstance(row, dict) else None
    if not isinstance(name, str):
        raise SettingsError(f"{where}: name is missing, or is not text")
    keys = _KEYS.get(str(row.get("type")))
    if keys is None:
        raise SettingsError(f"{where} ({name}): type must be number or category")
    if unknown := sorted(set(row) - keys):
        raise SettingsError(
            f"{where} ({name}): {unknown[0]} is not known here; there are {', '.join(sorted(keys))}"
        )
    description = str(row.get("description", "own field"))
    if row["type"] == "category":
        if row.get("imputation", "missing") != "missing":
            raise SettingsError(f'{where} ({name}): imputation of a category is "missing"')
        return FeatureSpec(
            f"categories.{name}", CATEGORY, 1, MAX_CATEGORY_CHARACTERS, "missing", description
        )
    limits = row.get("range", [-MAX_NUMBER, MAX_NUMBER])
    if (
        not isinstance(limits, list)
        or len(limits) != 2
        or not all(map(_is_number, limits))
        or limits[0] >= limits[1]
    ):
        raise SettingsError(
            f"{where} ({name}): range must be [low, high], within 1e15 of zero, and low below high"
        )
    low, high = map(float, limits)
    imputation = row.get("imputation", MEDIAN)
    if imputation != MEDIAN and not (_is_number(imputation) and low <= imputation <= high):
        raise SettingsError(
            f'{where} ({name}): imputation must be "{MEDIAN}" or a number in its range'
        )
    text = MEDIAN if imputation == MEDIAN else repr(float(imputation))
    return FeatureSpec(f"numbers.{name}", NUMBER, low, high, text, description)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= MAX_NUMBER
