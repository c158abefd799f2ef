"""The inputs that a model learned from, and needs to be given."""

from collections.abc import Collection, Mapping
from typing import Any

# An input that is missing in more of the training rows may be missing in a window by chance.
MAX_MISSING = 0.99


def learned_inputs(manifest: Mapping[str, Any]) -> list[str]:
    """Return the inputs that training rows had values of; none if the manifest does not say."""
    try:
        inputs = manifest["drift"]["inputs"].items()
        return [name for name, known in inputs if known["missing"] <= MAX_MISSING]
    except (KeyError, TypeError, AttributeError):
        return []


def absent_inputs(manifest: Mapping[str, Any], fields: Collection[str]) -> list[str]:
    """Return the learned inputs that are not among these fields of LeadState."""
    return [name for name in learned_inputs(manifest) if name not in fields]
