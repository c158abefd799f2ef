"""`leadstream doctor`: is everything there that the consumer needs, and what to do where it is not."""

import argparse
import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from leadstream.cli.doctor.findings import Finding, Verdict, mend

if TYPE_CHECKING:
    from leadstream.settings import Settings

Check = Callable[["Settings"], Iterable[Finding]]


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "doctor",
        help="check settings, brokers, topics, group, registry, database and model",
        description="Check what the consumer depends on, and say what to mend; it changes nothing.\n"
        "Exit 1 if anything is to be mended. A note may be as you want it.",
        epilog="example:\n  leadstream doctor\n  leadstream doctor --processes 3",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--processes",
        type=int,
        metavar="N",
        help="how many consumers are to share the work (default: as many as do now)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(func=doctor)


def doctor(arguments: argparse.Namespace) -> int:
    """Run every check, also after one has failed."""
    from leadstream.errors import SettingsError
    from leadstream.log import silence
    from leadstream.settings import load_settings

    if arguments.processes is not None and arguments.processes < 1:
        raise SettingsError(f"--processes {arguments.processes}: must be 1 or more")
    settings = load_settings()
    silence()
    findings = [
        finding for name, check in _checks(arguments) for finding in _found(name, check, settings)
    ]
    if arguments.json:
        print(json.dumps([finding.as_json() for finding in findings], indent=2))
    else:
        _show(findings)
    return 1 if any(finding.verdict is Verdict.MEND for finding in findings) else 0


def _checks(arguments: argparse.Namespace) -> Iterable[tuple[str, Check]]:
    from leadstream.cli.doctor import brokers
    from leadstream.cli.doctor import dependencies as beside

    yield "settings", beside.check_settings
    yield "brokers", lambda settings: brokers.check(settings, arguments.processes)
    yield "registry", beside.check_registry
    yield "database", beside.check_database
    yield "model", beside.check_model


def _found(name: str, check: Check, settings: "Settings") -> list[Finding]:
    """What a check finds, up to where it ends with an error, which is a finding too."""
    from leadstream.errors import LeadstreamError

    found: list[Finding] = []
    try:
        found.extend(check(settings))
    except LeadstreamError as error:
        found.append(mend(name, str(error)))
    return found


def _show(findings: list[Finding]) -> None:
    import shutil
    import sys
    import textwrap

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    for finding in findings:
        start = f"{finding.verdict.shown():<4}  {finding.check:<9} "
        text = start + finding.detail
        # A program that reads lines gets one for each finding.
        print(
            textwrap.fill(text, width, subsequent_indent=" " * len(start), break_on_hyphens=False)
            if width
            else text
        )
