"""The training table: one row per moment at which a lead could have been scored, with what became of it."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from leadstream.lead_fields import LEAD_FIELDS, FieldKind

if TYPE_CHECKING:
    import pandas as pd


def training_frame(
    lead_ids: Sequence[str],
    as_of: Sequence[int],
    states: Sequence[Mapping[str, Any]],
    converted: Sequence[bool],
) -> "pd.DataFrame":
    """A table with lead_id, as_of (int64, ms UTC), the LeadState fields as events carry them, and converted (bool).

    The optional fields keep Python's own values: None where absent, never NaN.
    """
    import pandas as pd  # noqa: PLC0415  # only training needs it

    columns: dict[str, Any] = {
        "lead_id": pd.Series(lead_ids, dtype=object),
        "as_of": pd.Series(as_of, dtype="int64"),
    }
    for field in LEAD_FIELDS:
        kind = "int64" if field.kind is FieldKind.TIME else object
        columns[field.name] = pd.Series([state.get(field.name) for state in states], dtype=kind)
    return pd.DataFrame({**columns, "converted": pd.Series(converted, dtype=bool)})
