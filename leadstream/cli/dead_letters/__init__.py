"""`leadstream dead-letters`: inspect dead letters, decide on them, and verify the decisions."""

import argparse
import sys
from typing import Any

from leadstream.cli.progress import positive

_CONFIRM_ABOVE = 100
_RATE = 500


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "dead-letters", help="look at the dead letters, replay or discard them"
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    groups = _add_action(actions, "groups", "letters by cause", "groups")
    _add_filters(groups)
    groups.set_defaults(func=show_groups)
    listed = _add_action(
        actions, "list", "one line a letter", "list --reason DECODE_FAILED --since 2h"
    )
    _add_filters(listed, limit=50)
    listed.set_defaults(func=show_list)
    show = _add_action(
        actions, "show", "one letter in full, with the byte at which decoding failed", "show 0-17"
    )
    show.add_argument(
        "id", metavar="ID", help="the letter's id: partition-offset in the dead-letter topic"
    )
    show.set_defaults(func=show_letter)
    export = _add_action(
        actions,
        "export",
        "letters as files, with a manifest",
        "export ./letters --reason OVERSIZED",
    )
    export.add_argument("folder", metavar="FOLDER", help="a new folder")
    _add_filters(export)
    export.set_defaults(func=export_letters)
    _add_replay(actions)
    _add_discard(actions)
    watch = actions.add_parser(
        "watch",
        help="causes and letters on the full screen, with keys to replay and discard",
        epilog="example:\n  leadstream dead-letters watch --since 2h",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_filters(watch)
    watch.add_argument(
        "--by", metavar="NAME", help="the decider, for the audit (default: your account)"
    )
    watch.set_defaults(func=watch_letters)
    audit = actions.add_parser("audit", help="the decisions on the letters").add_subparsers(
        title="actions", metavar="ACTION", required=True
    )
    verify = _add_action(
        audit, "verify", "check that no decision was altered, removed or inserted", "audit verify"
    )
    verify.set_defaults(func=verify_audit)


def _add_replay(actions: Any) -> None:
    replay = _add_action(
        actions,
        "replay",
        "send letters back to their topics",
        "replay --fingerprint 3f0c2a9be1d47785",
    )
    _add_filters(replay)
    _add_decision_options(replay)
    add = replay.add_argument
    _add_comment(replay, "why, for the audit")
    add(
        "--rate",
        type=positive,
        default=_RATE,
        metavar="N",
        help=f"letters a second (default {_RATE})",
    )
    source = replay.add_mutually_exclusive_group()
    source.add_argument(
        "--set",
        action="append",
        metavar="FIELD=VALUE",
        help="patch a field of each value first; JSON or text, dots lead into lead; repeatable",
    )
    source.add_argument(
        "--patch", metavar="FILE", help="patch each value first by a JSON merge patch (RFC 7396)"
    )
    replay.set_defaults(func=replay_letters)


def _add_discard(actions: Any) -> None:
    discard = _add_action(
        actions,
        "discard",
        "discard letters for good",
        'discard --reason UNKNOWN_FRAMING --comment "a test"',
    )
    _add_filters(discard)
    _add_decision_options(discard)
    _add_comment(
        discard.add_mutually_exclusive_group(required=True), "why, for the audit (required)"
    )
    discard.set_defaults(func=discard_letters)


def _add_comment(parser: Any, help_: str) -> None:
    parser.add_argument("--comment", metavar="TEXT", help=help_)
    # The name of the option in 0.1.
    parser.add_argument("--because", dest="comment", help=argparse.SUPPRESS)


def _add_action(actions: Any, name: str, help_: str, example: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(
        name,
        help=help_,
        epilog=f"example:\n  leadstream dead-letters {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _add_filters(parser: argparse.ArgumentParser, limit: int | None = None) -> None:
    group = parser.add_argument_group("which letters")
    add = group.add_argument
    add("--reason", help="only this reason")
    add("--fingerprint", help="only this cause")
    add("--lead", help="only letters with this key")
    add(
        "--since",
        metavar="TIME",
        help="only letters that failed since then: 2026-11-24T08:00 (UTC), or an age: 90m, 2h, 3d",
    )
    add("--until", metavar="TIME", help="only letters that failed before then")
    add(
        "--partition",
        type=_number,
        metavar="N",
        help="only this partition of the dead-letter topic",
    )
    add("--offset", type=_number, metavar="N", help="only this offset")
    default = f" (default {limit})" if limit else ""
    add("--limit", type=positive, default=limit, metavar="N", help=f"at most N letters{default}")
    if "replay" not in parser.prog and "discard" not in parser.prog:
        add("--all", action="store_true", help="include decided letters")


def _add_decision_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--dry-run",
        action="store_true",
        help=f"only print what would happen; the default above {_CONFIRM_ABOVE} letters",
    )
    add("--yes", action="store_true", help=f"decide even more than {_CONFIRM_ABOVE} letters")
    add("--by", metavar="NAME", help="the decider, for the audit (default: your account)")


def _number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return int(text)


def show_groups(arguments: argparse.Namespace) -> int:
    """Print letters by fingerprint, the most frequent first."""
    from leadstream.cli.dead_letters import view

    with _open_triage() as triage:
        groups = triage.groups(_filter(arguments))
    view.print_result(
        arguments,
        view.groups_as_json(groups),
        lambda: view.print_groups(groups, everything=arguments.all),
    )
    return 0


def show_list(arguments: argparse.Namespace) -> int:
    """Print a line for each letter."""
    from leadstream.cli.dead_letters import view

    with _open_triage() as triage:
        decided = triage.decided()
        letters = list(triage.letters(_filter(arguments), decided))
    rows = [view.summary_as_json(letter, decided) for letter in letters]
    view.print_result(
        arguments, rows, lambda: view.print_letters(letters, decided, arguments.limit)
    )
    return 0


def show_letter(arguments: argparse.Namespace) -> int:
    """Print one letter in full: its headers, its content, and the byte at which decoding fails."""
    from consumer.dead_letters.letters import LetterId
    from leadstream.cli.dead_letters import view

    with _open_triage() as triage:
        letter, inspection, decision = triage.letter(LetterId.parse(arguments.id))
    view.print_result(
        arguments,
        view.letter_as_json(letter, inspection, decision),
        lambda: view.print_letter(letter, inspection, decision),
    )
    return 0


def export_letters(arguments: argparse.Namespace) -> int:
    """Write letters into a folder, and print how many."""
    from dataclasses import asdict
    from datetime import UTC, datetime
    from pathlib import Path

    from leadstream.cli.dead_letters import view
    from leadstream.cli.dead_letters.text import letters_word

    wanted = _filter(arguments)
    with _open_triage() as triage:
        about = {
            "topic": triage.settings.topics.dead_letters,
            "exported_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "filter": asdict(wanted),
        }
        manifest = triage.export(wanted, Path(arguments.folder), about)
    count = f"{manifest['letters']:,} {letters_word(manifest['letters'])}"
    view.print_result(
        arguments,
        manifest,
        lambda: print(f"{count} in {arguments.folder}; manifest.json describes the files"),
    )
    return 0


def replay_letters(arguments: argparse.Namespace) -> int:
    """Replay letters, or print a dry run; return 1 if some letters stay open."""
    from consumer.dead_letters.patch import load_patch, parse_assignments
    from leadstream.cli.dead_letters import view

    patch = (
        load_patch(arguments.patch) if arguments.patch else parse_assignments(arguments.set or ())
    )
    with _open_triage() as triage:
        selection = triage.select(_filter(arguments))
        if _only_previews(arguments, selection.count):
            groups = triage.dry_run(selection, patch)
            view.print_result(
                arguments,
                view.dry_run_report(view.dry_run_as_json(groups)),
                lambda: view.print_dry_run(groups),
            )
            return _print_hint(arguments, selection.count)
        with view.decision_progress(arguments, selection.count) as (report, stop):
            progress = triage.replay(
                selection,
                decided_by=_decided_by(arguments),
                patch=patch,
                comment=arguments.comment,
                rate=arguments.rate,
                report=report,
                stop=stop,
            )
    view.print_result(
        arguments, view.progress_as_json(progress), lambda: view.print_progress(progress)
    )
    return _exit_code(progress)


def discard_letters(arguments: argparse.Namespace) -> int:
    """Discard letters, or print which ones that would be."""
    from leadstream.cli.dead_letters import view
    from leadstream.errors import SettingsError

    if not arguments.comment.strip():
        raise SettingsError("--comment is empty: say why the letters are discarded")
    with _open_triage() as triage:
        wanted = _filter(arguments)
        selection = triage.select(wanted)
        if _only_previews(arguments, selection.count):
            groups = triage.groups(wanted)
            view.print_result(
                arguments,
                view.dry_run_report(view.groups_as_json(groups)),
                lambda: view.print_groups(groups),
            )
            return _print_hint(arguments, selection.count)
        with view.decision_progress(arguments, selection.count) as (report, stop):
            progress = triage.discard(
                selection,
                decided_by=_decided_by(arguments),
                comment=arguments.comment,
                report=report,
                stop=stop,
            )
    view.print_result(
        arguments, view.progress_as_json(progress), lambda: view.print_progress(progress)
    )
    return _exit_code(progress)


def watch_letters(arguments: argparse.Namespace) -> int:
    """Show the full-screen view."""
    from leadstream.cli.dead_letters.watch import watch

    wanted = _filter(arguments)
    with _open_triage() as triage:
        return watch(arguments, triage, wanted)


def verify_audit(arguments: argparse.Namespace) -> int:
    """Verify the chain of decisions; return 1 if it is broken."""
    from leadstream.cli.dead_letters import view

    with _open_triage() as triage:
        report = triage.verify()
    view.print_result(arguments, view.audit_as_json(report), lambda: view.print_audit(report))
    return 1 if report.breaks else 0


def _open_triage() -> Any:
    from leadstream.kafka.connection_check import ConnectionCheck
    from leadstream.settings import load_settings

    settings = load_settings()
    access = ConnectionCheck(settings)
    from consumer.dead_letters.service import TriageService

    access.check()
    return TriageService(settings)


def _filter(arguments: argparse.Namespace) -> Any:
    from consumer.dead_letters.selection import Filter
    from leadstream.cli.dead_letters.times import parse_time

    return Filter(
        reason=arguments.reason,
        fingerprint=arguments.fingerprint,
        lead=arguments.lead,
        since=parse_time("--since", arguments.since),
        until=parse_time("--until", arguments.until),
        partition=arguments.partition,
        offset=arguments.offset,
        limit=arguments.limit,
        everything=getattr(arguments, "all", False),
    )


def _only_previews(arguments: argparse.Namespace, count: int) -> bool:
    return bool(arguments.dry_run or (count > _CONFIRM_ABOVE and not arguments.yes))


def _print_hint(arguments: argparse.Namespace, count: int) -> int:
    if count and not arguments.json:
        print(
            "Nothing was done"
            + (
                "."
                if arguments.dry_run
                else f", because these are more than {_CONFIRM_ABOVE} letters: add --yes."
            )
        )
    return 0


def _decided_by(arguments: argparse.Namespace) -> str:
    from consumer.dead_letters.service import current_account

    return arguments.by or current_account()


def _exit_code(progress: Any) -> int:
    if progress.stopped:
        print("leadstream: interrupted; run it again to go on", file=sys.stderr)
        return 130
    return 1 if progress.skipped else 0
