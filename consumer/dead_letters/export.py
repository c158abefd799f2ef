"""Letters as files: a manifest, one line of facts for each letter, and its value byte for byte."""

import base64
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from consumer.dead_letters import groups
from consumer.dead_letters.audit import Decided
from consumer.dead_letters.groups import Group
from consumer.dead_letters.letters import Letter
from leadstream.errors import UserError

MANIFEST, LETTERS, VALUES = "manifest.json", "letters.jsonl", "values"


def export(
    letters: Iterable[Letter], decided: Decided, folder: Path, about: dict[str, Any]
) -> dict[str, Any]:
    """Write the letters into a new folder that only its owner may read, and return its manifest.

    The manifest is written last: a folder without one is not complete. Raises UserError where it cannot be written.
    """
    try:
        folder.mkdir(parents=True, mode=0o700)
        (folder / VALUES).mkdir(mode=0o700)
        causes: dict[str, Group] = {}
        files: dict[str, dict[str, Any]] = {}
        lines = hashlib.sha256()
        with (folder / LETTERS).open("wb") as out:
            for letter in letters:
                groups.of(causes, letter).add(letter)
                line = json.dumps(facts(letter, decided), ensure_ascii=False).encode() + b"\n"
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
        raise UserError(f"{folder} is there already: an export goes into a new folder") from None
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}") from None
    return manifest


def facts(letter: Letter, decided: Decided) -> dict[str, Any]:
    """A letter as JSON data, but for its value. Bytes are base64; `lead` is the key as text."""
    told = letter.facts
    return {
        "id": str(letter.id),
        "lead": letter.lead,
        "key": _base64(letter.key),
        "timestamp": letter.timestamp,
        "failed_at": letter.failed_at,
        "reason": told.reason,
        "fingerprint": told.fingerprint,
        "message": told.message,
        "writer": told.writer,
        "origin": {"topic": told.topic, "partition": told.partition, "offset": told.offset},
        "stage": told.stage,
        "exception": told.exception,
        "consumer_group": told.group,
        "model_version": told.model_version,
        "replays": told.replays,
        "decided": decided.get(letter.id),
        "headers": [[name, _base64(value)] for name, value in letter.headers],
    }


def _base64(value: bytes | None) -> str | None:
    return None if value is None else base64.b64encode(value).decode()
