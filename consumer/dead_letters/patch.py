"""JSON merge patches (RFC 7396) for decoded values."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from leadstream.errors import SettingsError


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """Return the merge patch of `field=value` words.

    Dots lead into nested records. A value that is not JSON is text. Raises SettingsError.
    """
    patch: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        path = name.strip().split(".")
        if not equals or not all(path):
            raise SettingsError(
                f"--set {assignment}: write field=value, for example lead.touchpoint_count=3"
            )
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        part = patch
        for step in path[:-1]:
            part = part.setdefault(step, {})
            if not isinstance(part, dict):
                raise SettingsError(f"--set {assignment}: {step} already has a value")
        part[path[-1]] = value
    return patch


def load_patch(file: str) -> dict[str, Any]:
    """Return the merge patch in a file. Raises SettingsError."""
    try:
        patch = json.loads(Path(file).read_text("utf-8"))
    except OSError as error:
        raise SettingsError(f"--patch {file}: {error.strerror}") from None
    except ValueError:
        raise SettingsError(f"--patch {file}: is not JSON") from None
    if not isinstance(patch, dict) or not patch:
        raise SettingsError(
            f"--patch {file}: write a JSON object with fields, a merge patch (RFC 7396)"
        )
    return patch


def merge(target: Any, patch: Any) -> Any:
    """Apply a patch: merge objects, remove names with null, replace everything else (RFC 7396)."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, part in patch.items():
        if part is None:
            merged.pop(name, None)
        else:
            merged[name] = merge(merged.get(name), part)
    return merged
