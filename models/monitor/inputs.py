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


def was_made_with(
    prediction: Mapping[str, Any], manifest: Mapping[str, Any], inputs: Collection[str]
) -> bool:
    """Return whether a prediction of this model was surely made with one of these inputs.

    A number was there if `imputed` does not name it. A prediction does not name missing categories:
    one was there if `feature_coverage` is more than what is possible without them.
    """
    learned = [name for name in learned_inputs(manifest) if name in inputs]
    if not learned:
        return False
    known = manifest["drift"]["inputs"]
    numbers = {name for name in learned if known[name].get("kind") == "number"}
    if not numbers <= set(prediction["imputed"]):
        return True
    # The time of creation is an input, too.
    total = len(known) + 1
    possible = total - len(prediction["imputed"]) - (len(learned) - len(numbers))
    return len(learned) > len(numbers) and round(prediction["feature_coverage"] * total) > possible
