"""Lead states to a feature matrix: no I/O and no clock; the moment `as_of` is an argument."""

from features.columns import MISSING, UNKNOWN, Columns, columns_of
from features.fitted import FeatureMatrix, FittedFeatures
from features.own import own_fields
from features.spec import FORMULAS, CalendarSettings, FeatureSpec, Specification, specify
from leadstream.lead_fields import STATE_FIELDS

__all__ = [
    "FORMULAS",
    "MISSING",
    "STATE_FIELDS",
    "UNKNOWN",
    "CalendarSettings",
    "Columns",
    "FeatureMatrix",
    "FeatureSpec",
    "FittedFeatures",
    "Specification",
    "columns_of",
    "own_fields",
    "specify",
]
