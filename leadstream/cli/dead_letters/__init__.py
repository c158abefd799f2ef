"""`leadstream dead-letters`: look at the dead letters, decide on them, and prove what was decided."""

import argparse
import sys
from typing import Any

from leadstream.cli.progress import positive

_MANY = 100
_RATE = 500


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "dead-letters", help="look at the dead letters, replay or discard them"
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    groups = _action(actions, "groups", "letters by cause", "groups")
    _filters(groups)
    groups.set_defaults(func=show_groups)
    listed = _action(actions, "list", "one line a letter", "list --reason DECODE_FAILED --since 2h")
    _filters(listed, limit=50)
    listed.set_defaults(func=show_list)
    show = _action(
        actions, "show", "one letter whole, with the place where decoding failed", "show 0-17"
    )
    show.add_argument(
        "id", metavar="ID", help="the letter's id: partition-offset in the dead-letter topic"
    )
    show.set_defaults(func=show_letter)
    export = _action(
        actions,
        "export",
        "letters as files, with a manifest",
        "export ./letters --reason OVERSIZED",
    )
    export.add_argument("folder", metavar="FOLDER", help="a new folder")
    _filters(export)
    export.set_defaults(func=export_letters)
    _add_replay(actions)
    _add_discard(actions)
    watch = actions.add_parser(
        "watch",
        help="causes and letters on the whole screen, with keys to replay and discard",
        epilog="example:\n  leadstream dead-letters watch --since 2h",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _filters(watch)
    watch.add_argument(
        "--by", metavar="NAME", help="who decides, for the audit (default: your account)"
    )
    watch.set_defaults(func=watch_letters)
    audit = actions.add_parser("audit", help="what was decided on the letters").add_subparsers(
        title="actions", metavar="ACTION", required=True
    )
    verify = _action(
        audit, "verify", "check that no decision was altered, taken out or put in", "audit verify"
    )
    verify.set_defaults(func=verify_audit)


def _add_replay(actions: Any) -> None:
    replay = _action(
        actions,
        "replay",
        "send letters back to where they came from",
        "replay --fingerprint 3f0c2a9be1d47785",
    )
    _filters(replay)
    _decides(replay)
    add = replay.add_argument
    add("--because", metavar="WORDS", help="why, for the audit")
    add(
        "--rate",
        type=positive,
        default=_RATE,
        metavar="N",
        help=f"letters a second (default {_RATE})",
    )
    mend = replay.add_mutually_exclusive_group()
    mend.add_argument(
        "--set",
        action="append",
        metavar="FIELD=VALUE",
        help="mend a field of each value first; JSON or text, dots lead into lead; may be repeated",
    )
    mend.add_argument(
        "--patch", metavar="FILE", help="mend each value first by a JSON merge patch (RFC 7396)"
    )
    replay.set_defaults(func=replay_letters)


def _add_discard(actions: Any) -> None:
    discard = _action(
        actions,
        "discard",
        "give letters up",
        'discard --reason UNKNOWN_FRAMING --because "a test of the CRM"',
    )
    _filters(discard)
    _decides(discard)
    discard.add_argument("--because", metavar="WORDS", required=True, help="why, for the audit")
    discard.set_defaults(func=discard_letters)


def _action(actions: Any, name: str, help_: str, example: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(
        name,
        help=help_,
        epilog=f"example:\n  leadstream dead-letters {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _filters(parser: argparse.ArgumentParser, limit: int | None = None) -> None:
    group = parser.add_argument_group("which letters")
    add = group.add_argument
    add("--reason", help="only this reason")
    add("--fingerprint", help="only this cause")
    add("--lead", help="only letters with this key")
    add(
        "--since",
        metavar="TIME",
        help="only those that failed from then on: 2026-11-24T08:00 (UTC), or 90m, 2h, 3d ago",
    )
    add("--until", metavar="TIME", help="only those that failed before then")
    add(
        "--partition",
        type=_number,
        metavar="N",
        help="only this partition of the dead-letter topic",
    )
    add("--offset", type=_number, metavar="N", help="only this offset")
    default = f" (default {limit})" if limit else ""
    add("--limit", type=positive, default=limit, metavar="N", help=f"at most so many{default}")
    if "replay" not in parser.prog and "discard" not in parser.prog:
        add("--all", action="store_true", help="those that were decided on, too")


def _decides(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--dry-run",
        action="store_true",
        help=f"only say what would happen; the default for more than {_MANY} letters",
    )
    add("--yes", action="store_true", help=f"do it, even if it is more than {_MANY} letters")
    add("--by", metavar="NAME", help="who decides, for the audit (default: your account)")


def _number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return int(text)


def show_groups(arguments: argparse.Namespace) -> int:
    """Letters by fingerprint, the most frequent first."""
    from leadstream.cli.dead_letters import view

    with _triage() as triage:
        groups = triage.groups(_filter(arguments))
    view.out(
        arguments, view.groups_facts(groups), lambda: view.groups(groups, everything=arguments.all)
    )
    return 0


def show_list(arguments: argparse.Namespace) -> int:
    """One line for each letter that matches."""
    from leadstream.cli.dead_letters import view

    with _triage() as triage:
        decided = triage.decided()
        letters = list(triage.letters(_filter(arguments), decided))
    facts = [view.letter_facts(letter, decided) for letter in letters]
    view.out(arguments, facts, lambda: view.letters(letters, decided, arguments.limit))
    return 0


def show_letter(arguments: argparse.Namespace) -> int:
    """Everything about one letter: its headers, what it holds, and where its bytes stop making sense."""
    from consumer.dead_letters.letters import LetterId
    from leadstream.cli.dead_letters import view

    with _triage() as triage:
        letter, inside, decision = triage.letter(LetterId.parse(arguments.id))
    view.out(
        arguments,
        view.whole_facts(letter, inside, decision),
        lambda: view.whole(letter, inside, decision),
    )
    return 0


def export_letters(arguments: argparse.Namespace) -> int:
    """Write letters into a folder and say how many."""
    from dataclasses import asdict
    from datetime import UTC, datetime
    from pathlib import Path

    from leadstream.cli.dead_letters import view
    from leadstream.cli.dead_letters.text import letters_word

    wanted = _filter(arguments)
    with _triage() as triage:
        about = {
            "topic": triage.settings.topics.dead_letters,
            "exported_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "filter": asdict(wanted),
        }
        manifest = triage.export(wanted, Path(arguments.folder), about)
    count = f"{manifest['letters']:,} {letters_word(manifest['letters'])}"
    view.out(
        arguments,
        manifest,
        lambda: print(f"{count} in {arguments.folder}; manifest.json says what is what"),
    )
    return 0


def replay_letters(arguments: argparse.Namespace) -> int:
    """Send letters back, or say what would become of them; 1 where some had to stay open."""
    from consumer.dead_letters.patch import load_patch, parse_assignments
    from leadstream.cli.dead_letters import view

    patch = (
        load_patch(arguments.patch) if arguments.patch else parse_assignments(arguments.set or ())
    )
    with _triage() as triage:
        survey = triage.select(_filter(arguments))
        if _only_said(arguments, survey.count):
            forecasts = triage.dry_run(survey, patch)
            view.out(
                arguments,
                view.rehearsed(view.forecast_facts(forecasts)),
                lambda: view.forecast(forecasts),
            )
            return _dry(arguments, survey.count)
        with view.deciding(arguments, survey.count) as (tell, stop):
            tally = triage.replay(
                survey,
                decided_by=_who(arguments),
                patch=patch,
                comment=arguments.because,
                rate=arguments.rate,
                report=tell,
                stop=stop,
            )
    view.out(arguments, view.tally_facts(tally), lambda: view.tally(tally))
    return _code(tally)


def discard_letters(arguments: argparse.Namespace) -> int:
    """Give letters up, or say which that would be."""
    from leadstream.cli.dead_letters import view
    from leadstream.errors import SettingsError

    if not arguments.because.strip():
        raise SettingsError("--because is empty: say why the letters are given up")
    with _triage() as triage:
        wanted = _filter(arguments)
        survey = triage.select(wanted)
        if _only_said(arguments, survey.count):
            groups = triage.groups(wanted)
            view.out(
                arguments, view.rehearsed(view.groups_facts(groups)), lambda: view.groups(groups)
            )
            return _dry(arguments, survey.count)
        with view.deciding(arguments, survey.count) as (tell, stop):
            tally = triage.discard(
                survey,
                decided_by=_who(arguments),
                comment=arguments.because,
                report=tell,
                stop=stop,
            )
    view.out(arguments, view.tally_facts(tally), lambda: view.tally(tally))
    return _code(tally)


def watch_letters(arguments: argparse.Namespace) -> int:
    """Look and decide on the whole screen."""
    from leadstream.cli.dead_letters.watch import watch

    wanted = _filter(arguments)
    with _triage() as triage:
        return watch(arguments, triage, wanted)


def verify_audit(arguments: argparse.Namespace) -> int:
    """Follow the chain of decisions; 1 where it is broken."""
    from leadstream.cli.dead_letters import view

    with _triage() as triage:
        verdict = triage.verify()
    view.out(arguments, view.verdict_facts(verdict), lambda: view.verdict(verdict))
    return 1 if verdict.breaks else 0


def _triage() -> Any:
    from leadstream.kafka.access import Access
    from leadstream.settings import load_settings

    settings = load_settings()
    access = Access(settings)
    from consumer.dead_letters.service import TriageService

    access.check()
    return TriageService(settings)


def _filter(arguments: argparse.Namespace) -> Any:
    from consumer.dead_letters.selection import Filter
    from leadstream.cli.dead_letters.times import moment

    return Filter(
        reason=arguments.reason,
        fingerprint=arguments.fingerprint,
        lead=arguments.lead,
        since=moment("--since", arguments.since),
        until=moment("--until", arguments.until),
        partition=arguments.partition,
        offset=arguments.offset,
        limit=arguments.limit,
        everything=getattr(arguments, "all", False),
    )


def _only_said(arguments: argparse.Namespace, count: int) -> bool:
    return bool(arguments.dry_run or (count > _MANY and not arguments.yes))


def _dry(arguments: argparse.Namespace, count: int) -> int:
    if count and not arguments.json:
        print(
            "Nothing was done"
            + ("." if arguments.dry_run else f", for it is more than {_MANY} letters: add --yes.")
        )
    return 0


def _who(arguments: argparse.Namespace) -> str:
    from consumer.dead_letters.service import current_account

    return arguments.by or current_account()


def _code(tally: Any) -> int:
    if tally.stopped:
        print("leadstream: interrupted; run it again to go on", file=sys.stderr)
        return 130
    return 1 if tally.skipped else 0
