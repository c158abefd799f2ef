"""A decoded value mended by a JSON merge patch (RFC 7396), and written again by today's schema."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from leadstream.errors import SettingsError


def patch_of(assignments: Iterable[str]) -> dict[str, Any]:
    """The merge patch of `field=value` words: dots lead into records, a value that is no JSON is text.

    Raises SettingsError.
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
                raise SettingsError(f"--set {assignment}: {step} was given a value before")
        part[path[-1]] = value
    return patch


def read_patch(file: str) -> dict[str, Any]:
    """The merge patch in a file. Raises SettingsError."""
    try:
        patch = json.loads(Path(file).read_text("utf-8"))
    except OSError as error:
        raise SettingsError(f"--patch {file}: {error.strerror}") from None
    except ValueError:
        raise SettingsError(f"--patch {file}: is not JSON") from None
    if not isinstance(patch, dict) or not patch:
        raise SettingsError(
            f"--patch {file}: is no JSON object with fields, as a merge patch (RFC 7396) of a record is"
        )
    return patch


def merge(target: Any, patch: Any) -> Any:
    """`target` changed as `patch` says: objects are merged, null takes a name out, all else replaces (RFC 7396)."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, part in patch.items():
        if part is None:
            merged.pop(name, None)
        else:
            merged[name] = merge(merged.get(name), part)
    return merged
