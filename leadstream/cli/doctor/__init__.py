"""`leadstream doctor`: check everything that the consumer needs, and report what to fix."""

import argparse
import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from leadstream.cli.doctor.findings import CheckStatus, Finding, fail
from leadstream.cli.progress import working

if TYPE_CHECKING:
    from leadstream.settings import Settings

_LONG_NAMES = {
    "brokers": "brokers, topics and the group",
    "registry": "the schema registry",
    "database": "Postgres and the outbox",
    "model": "the model",
}
Check = Callable[["Settings"], Iterable[Finding]]


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "doctor",
        help="check settings, brokers, topics, group, registry, database and model",
        description="Check everything that the consumer depends on, and report what to fix;\n"
        "change nothing. The exit code is 1 after a FAIL. A note may be what you want.",
        epilog="example:\n  leadstream doctor\n  leadstream doctor --processes 3",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--processes",
        type=int,
        metavar="N",
        help="the number of consumers that will share the work (default: as many as now)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(func=doctor)


def doctor(arguments: argparse.Namespace) -> int:
    """Run every check, even after a failure."""
    from leadstream.errors import SettingsError
    from leadstream.log import silence
    from leadstream.settings import load_settings

    if arguments.processes is not None and arguments.processes < 1:
        raise SettingsError(f"--processes {arguments.processes}: must be 1 or more")
    settings = load_settings()
    silence()
    findings: list[Finding] = []
    for name, check in _checks(arguments):
        # Each line is printed when it is known: some checks wait for brokers for seconds.
        with working(f"checking {_LONG_NAMES.get(name, name)}", lines=False):
            found = _run_check(name, check, settings)
        findings += found
        if not arguments.json:
            _show(found)
    if arguments.json:
        print(json.dumps([finding.as_json() for finding in findings], indent=2))
    return 1 if any(finding.status is CheckStatus.FAIL for finding in findings) else 0


def _checks(arguments: argparse.Namespace) -> Iterable[tuple[str, Check]]:
    from leadstream.cli.doctor import brokers, dependencies

    yield "settings", dependencies.check_settings
    yield "brokers", lambda settings: brokers.check(settings, arguments.processes)
    yield "registry", dependencies.check_registry
    yield "database", dependencies.check_database
    yield "model", dependencies.check_model
    yield "history", dependencies.check_history


def _run_check(name: str, check: Check, settings: "Settings") -> list[Finding]:
    """Return the findings of a check; an error is the last one."""
    from leadstream.errors import LeadstreamError

    found: list[Finding] = []
    try:
        found.extend(check(settings))
    except LeadstreamError as error:
        found.append(fail(name, str(error)))
    return found


def _show(findings: list[Finding]) -> None:
    import shutil
    import sys
    import textwrap

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    for finding in findings:
        start = f"{finding.status.label():<4}  {finding.check:<9} "
        text = start + finding.detail
        # Without a terminal, print one line for each finding, for programs that read lines.
        print(
            textwrap.fill(text, width, subsequent_indent=" " * len(start), break_on_hyphens=False)
            if width
            else text,
            flush=True,
        )
