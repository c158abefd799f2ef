"""`leadstream doctor`: is everything there that the consumer needs, and what to do where it is not."""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from leadstream.settings import Settings


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found: `ok`, or a sentence that says what to mend."""

    check: str
    ok: bool
    detail: str


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "doctor",
        help="check brokers, topics, registry, database and model",
        description="Check what the consumer depends on; exit 1 if anything is to be mended.",
        epilog="example:\n  leadstream doctor",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(func=doctor)


def doctor(arguments: argparse.Namespace) -> int:
    """Run every check, also after one has failed."""
    from leadstream.settings import load_settings

    settings = load_settings()
    checks: dict[str, Callable[[Settings], str]] = {
        "topics": _topics,
        "registry": _registry,
        "database": _database,
        "model": _model,
    }
    findings = [_find(name, check, settings) for name, check in checks.items()]
    if arguments.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            print(f"{'ok  ' if finding.ok else 'MEND'}  {finding.check:<9} {finding.detail}")
    return 0 if all(finding.ok for finding in findings) else 1


def _find(name: str, check: "Callable[[Settings], str]", settings: "Settings") -> Finding:
    from leadstream.errors import LeadstreamError

    try:
        return Finding(name, True, check(settings))
    except LeadstreamError as error:
        return Finding(name, False, str(error))


def _topics(_settings: "Settings") -> str:
    from commands.topics import find_differences
    from leadstream.errors import UserError

    differences = find_differences()
    if differences:
        names = ", ".join(sorted({difference.topic for difference in differences}))
        raise UserError(f"not as the contract says: {names}; see `leadstream topics check`")
    return "all are there, as the contract says"


def _registry(settings: "Settings") -> str:
    from leadstream.settings import masked_url
    from schemas.registry import Registry

    if settings.schema_registry_url is None:
        return "not set: records are Avro single objects"
    registry = Registry(settings.schema_registry_url)
    try:
        registry.ping()
    finally:
        registry.close()
    return f"{masked_url(settings.schema_registry_url)} answers"


def _database(settings: "Settings") -> str:
    from consumer.postgres import PostgresLeads

    if settings.database_url is None:
        return "not set: changes that carry no state become dead letters (LEAD_NOT_FOUND)"
    leads = PostgresLeads(settings.database_url)
    try:
        leads.fetch(["leadstream doctor asks for a lead that does not exist"])
    finally:
        leads.close()
    return "answers, and has the columns that are needed"


def _model(settings: "Settings") -> str:
    from models.registry import open_registry
    from models.slot import ModelSlot
    from models.variants import CHALLENGER

    registry = open_registry(settings)
    model = ModelSlot(registry).get()
    challenger = registry.resolve(CHALLENGER)
    if challenger is None:
        return f"version {model.version} is the champion and verifies"
    registry.verify(challenger)
    return f"version {model.version} is the champion, {challenger} its challenger, and both verify"
