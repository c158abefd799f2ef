"""The training table: one row for each moment at which a lead could have been scored.

Each row has the outcome of the lead.
"""

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
    """Build a table with lead_id, as_of, the LeadState fields, and converted (bool).

    as_of is int64, ms UTC; the fields are as events carry them. Optional fields keep Python's own
    values: None where absent, never NaN.
    """
    columns = {field.name: [state.get(field.name) for state in states] for field in LEAD_FIELDS}
    return frame_from_columns(lead_ids, as_of, columns, converted)


def frame_from_columns(
    lead_ids: Sequence[str],
    as_of: Sequence[int],
    columns: Mapping[str, Sequence[Any]],
    converted: Sequence[bool],
) -> "pd.DataFrame":
    """Build the same table from the columns of the LeadState fields."""
    import pandas as pd  # noqa: PLC0415  # only training needs it

    series: dict[str, Any] = {
        "lead_id": pd.Series(lead_ids, dtype=object),
        "as_of": pd.Series(as_of, dtype="int64"),
    }
    for field in LEAD_FIELDS:
        kind = "int64" if field.kind is FieldKind.TIME else object
        series[field.name] = pd.Series(columns[field.name], dtype=kind)
    return pd.DataFrame({**series, "converted": pd.Series(converted, dtype=bool)})
