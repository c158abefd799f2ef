"""The export of letters as files: a manifest, the metadata of each letter, and the values."""

import base64
import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from consumer.dead_letters import groups
from consumer.dead_letters.audit import DecisionIndex
from consumer.dead_letters.groups import LetterGroup
from consumer.dead_letters.letters import Letter
from leadstream.errors import UserError

MANIFEST, LETTERS, VALUES = "manifest.json", "letters.jsonl", "values"


def export(
    letters: Iterable[Letter], decided: DecisionIndex, folder: Path, about: dict[str, Any]
) -> dict[str, Any]:
    """Write the letters into a new private folder, and return the manifest.

    The manifest comes last: a folder without one is incomplete. Raises UserError if a write fails.
    """
    try:
        folder.mkdir(parents=True, mode=0o700)
        (folder / VALUES).mkdir(mode=0o700)
        causes: dict[str, LetterGroup] = {}
        files: dict[str, dict[str, Any]] = {}
        lines = hashlib.sha256()
        with (folder / LETTERS).open("wb") as out:
            for letter in letters:
                groups.get_or_create(causes, letter).add(letter)
                line = (
                    json.dumps(letter_as_json(letter, decided), ensure_ascii=False).encode() + b"\n"
                )
                lines.update(line)
                out.write(line)
                if letter.value is not None:
                    file = f"{VALUES}/{letter.id}.bin"
                    (folder / file).write_bytes(letter.value)
                    digest = hashlib.sha256(letter.value).hexdigest()
                    files[file] = {
                        "letter": str(letter.id),
                        "bytes": len(letter.value),
                        "sha256": digest,
                    }
        manifest = {
            **about,
            "letters": sum(each.count for each in causes.values()),
            "groups": {
                each.fingerprint: {"reason": each.reason, "letters": each.count}
                for each in causes.values()
            },
            "files": {LETTERS: {"sha256": lines.hexdigest()}, **files},
        }
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", "utf-8")
    except FileExistsError:
        raise UserError(f"{folder} is there already: an export needs a new folder") from None
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}") from None
    return manifest


def letter_as_json(letter: Letter, decided: DecisionIndex) -> dict[str, Any]:
    """Return the metadata of a letter as JSON data; bytes are base64, `lead` is the key as text."""
    parsed = letter.parsed
    return {
        "id": str(letter.id),
        "lead": letter.lead,
        "key": _base64(letter.key),
        "timestamp": letter.timestamp,
        "failed_at": letter.failed_at,
        "reason": parsed.reason,
        "fingerprint": parsed.fingerprint,
        "message": parsed.message,
        "writer": parsed.writer,
        "origin": {"topic": parsed.topic, "partition": parsed.partition, "offset": parsed.offset},
        "stage": parsed.stage,
        "exception": parsed.exception,
        "consumer_group": parsed.group,
        "model_version": parsed.model_version,
        "replays": parsed.replays,
        "original_timestamp": letter.original_timestamp,
        "cut": None if parsed.cut is None else asdict(parsed.cut),
        "decided": decided.get(letter.id),
        "headers": [[name, _base64(value)] for name, value in letter.headers],
    }


def _base64(value: bytes | None) -> str | None:
    return None if value is None else base64.b64encode(value).decode()
