"""`leadstream dead-letters groups`, `list` and `show`: what is in the dead-letter topic, and why."""

import argparse
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from consumer.letters import Letter

_SHOWN_BYTES = 256


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb."""
    parser = verbs.add_parser("dead-letters", help="look at the dead letters: by cause, one by one")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    groups = _action(actions, "groups", "letters by cause", "leadstream dead-letters groups")
    _filters(groups)
    groups.set_defaults(func=show_groups)
    listed = _action(actions, "list", "one line a letter", "leadstream dead-letters list --reason DECODE_FAILED")
    _filters(listed)
    listed.add_argument("--limit", type=int, default=50, help="at most this many (default 50)")
    listed.set_defaults(func=show_list)
    show = _action(actions, "show", "one letter whole", "leadstream dead-letters show 0-17")
    show.add_argument("id", help="the letter's id: partition-offset in the dead-letter topic")
    show.set_defaults(func=show_letter)


def _action(actions: Any, name: str, help_: str, example: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(
        name, help=help_, epilog=f"example:\n  {example}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _filters(parser: argparse.ArgumentParser) -> None:
    from leadstream.errors import Reason

    parser.add_argument(
        "--reason", type=str.upper, choices=[reason.value for reason in Reason], help="only this reason"
    )
    parser.add_argument("--fingerprint", help="only this cause")
    parser.add_argument("--lead", help="only letters with this key")


def show_groups(arguments: argparse.Namespace) -> int:
    """Letters by fingerprint, the most frequent first."""
    groups: dict[str, dict[str, Any]] = {}
    total = 0
    for letter in _matching(arguments):
        total += 1
        group = groups.setdefault(
            letter.fingerprint,
            {
                "fingerprint": letter.fingerprint,
                "reason": letter.reason,
                "count": 0,
                "first_seen": letter.failed_at,
                "last_seen": letter.failed_at,
                "example": letter.id,
                "message": letter.message,
            },
        )
        group["count"] += 1
        group["first_seen"] = min(group["first_seen"], letter.failed_at)
        group["last_seen"] = max(group["last_seen"], letter.failed_at)
    rows = sorted(groups.values(), key=lambda group: (-group["count"], group["fingerprint"]))
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return 0
    if not rows:
        print("no dead letters match")
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{total:,} dead letters, {len(rows):,} causes", box=None, pad_edge=False)
    for heading in ("letters", "share"):
        table.add_column(heading, justify="right")
    for heading in ("reason", "example", "message"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        share = f"{row['count'] / total:.0%}"
        table.add_row(f"{row['count']:,}", share, row["reason"], row["example"], row["message"][:90])
    Console().print(table)
    print("One letter whole: leadstream dead-letters show ID, with the id of an example.")
    return 0


def show_list(arguments: argparse.Namespace) -> int:
    """One line for each letter that matches."""
    letters = []
    for letter in _matching(arguments):
        letters.append(letter)
        if len(letters) >= arguments.limit:
            break
    if arguments.json:
        print(json.dumps([_facts(letter) for letter in letters], indent=2))
    else:
        for letter in letters:
            print(f"{letter.id:<10} {_time(letter.failed_at)}  {letter.reason:<15} {letter.message[:80]}")
        if not letters:
            print("no dead letters match")
    return 0


def show_letter(arguments: argparse.Namespace) -> int:
    """Everything about one letter: its headers, its key, and its value in hexadecimal."""
    from consumer.letters import read_letter
    from leadstream.errors import SettingsError
    from leadstream.settings import load_settings

    partition, _, offset = arguments.id.partition("-")
    if not (partition.isdigit() and offset.isdigit()):
        raise SettingsError(f"{arguments.id} is no letter id: it is partition-offset, for example 0-17")
    letter = read_letter(load_settings(), int(partition), int(offset))
    value = letter.value
    if arguments.json:
        hexadecimal = None if value is None else value.hex()
        print(json.dumps({**_facts(letter), "headers": letter.headers, "value_hex": hexadecimal}, indent=2))
        return 0
    print(f"letter  {letter.id}")
    print(f"key     {letter.key}")
    for name, text in letter.headers.items():
        print(f"{name}: {text}")
    print(f"value   {'null' if value is None else f'{len(value)} bytes'}")
    for start in range(0, min(len(value or b""), _SHOWN_BYTES), 16):
        row = (value or b"")[start : start + 16]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        print(f"  {start:04x}  {row.hex(' '):<47}  {text}")
    if value is not None and len(value) > _SHOWN_BYTES:
        print(f"  ... {len(value) - _SHOWN_BYTES} more bytes; --json shows all")
    return 0


def _matching(arguments: argparse.Namespace) -> "Iterator[Letter]":
    from consumer.letters import read_letters
    from leadstream.settings import load_settings

    for letter in read_letters(load_settings()):
        if (
            arguments.reason in (None, letter.reason)
            and arguments.fingerprint in (None, letter.fingerprint)
            and arguments.lead in (None, letter.key)
        ):
            yield letter


def _facts(letter: "Letter") -> dict[str, Any]:
    return {
        "id": letter.id,
        "key": letter.key,
        "reason": letter.reason,
        "fingerprint": letter.fingerprint,
        "failed_at": letter.failed_at,
        "message": letter.message,
    }


def _time(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
