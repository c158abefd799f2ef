"""`leadstream models`: versions, aliases with their log, and the signing key."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leadstream.errors import UserError, error_text

if TYPE_CHECKING:
    from models.registry.versions import ModelRegistry

EPILOG = """examples:
  leadstream models list
  leadstream models show champion --json
  leadstream models report 1.2.0
  leadstream models promote 1.2.0
  leadstream models rollback
  leadstream models promote 1.3.0 --alias challenger
  leadstream models compare
  leadstream models retire
  leadstream models verify 1.2.0
  leadstream models log
  leadstream models keygen
  leadstream models import-legacy advanced_ml_random_forest_20250101_120000.joblib
"""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb `models` with its own verbs."""
    parser = subparsers.add_parser(
        "models",
        help="list, show, report, promote, roll back, verify and import models",
        description="Manage the versions in MODEL_STORE and the aliases that point to them.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="models_verb", required=True, metavar="VERB")

    def add(name: str, about: str, example: str, func: Any) -> argparse.ArgumentParser:
        verb = verbs.add_parser(
            name,
            help=about,
            description=about[0].upper() + about[1:] + ".",
            epilog=f"example:\n  leadstream models {example}\n",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        verb.add_argument("--json", action="store_true", help="print the result as JSON")
        verb.set_defaults(func=func)
        return verb

    add("list", "list the published versions with their metrics", "list", list_versions)
    show = add("show", "show the manifest of a version", "show champion", show_version)
    report = add(
        "report",
        "write the report of a version as one HTML file",
        "report 1.2.0 --output r.html",
        report_version,
    )
    report.add_argument(
        "--output",
        metavar="FILE.html",
        type=Path,
        help="where (model-report-<version>.html in this folder)",
    )
    promote = add(
        "promote", "let a version serve, after verification", "promote 1.2.0", promote_version
    )
    rollback = add("rollback", "let the previous version serve again", "rollback", roll_back)
    retire = add("retire", "remove an alias: end the trial of a challenger", "retire", retire_alias)
    compare = add(
        "compare",
        "compare challenger and champion by the outcomes: better, worse or not yet",
        "compare",
        compare_versions,
    )
    verify = add(
        "verify",
        "check a version as a consumer does before serving",
        "verify 1.2.0",
        verify_version,
    )
    add("keygen", "make a key that signs models, and its public half", "keygen", make_key_pair)
    legacy = add(
        "import-legacy",
        "report what an audited artifact lacks, and publish it if it can be served honestly",
        "import-legacy advanced_ml_random_forest_20250101_120000.joblib",
        import_legacy,
    )
    legacy.add_argument(
        "file",
        metavar="FILE.joblib",
        type=Path,
        help="the artifact; it is read as data, never executed",
    )
    legacy.add_argument("--dry-run", action="store_true", help="only report, and publish nothing")
    for verb in (show, report, verify):
        verb.add_argument(
            "version", nargs="?", default="champion", help="a version, or an alias (champion)"
        )
    promote.add_argument("version", help="a version")
    promote.add_argument(
        "--force",
        action="store_true",
        help="ignore the objections of the gate; the log records that",
    )
    add("log", "list the moves of all aliases, with forced ones", "log", show_log)
    retire.add_argument("--alias", default="challenger", help="the alias to remove (challenger)")
    for name in ("challenger", "champion"):
        compare.add_argument(
            f"--{name}",
            default=name,
            metavar="VERSION",
            help=f"a version, or an alias (the present {name})",
        )
    compare.add_argument(
        "--mode",
        choices=("shadow", "split"),
        help="the kind of trial (default: shadow if there are shadow predictions, else split)",
    )
    for verb in (promote, rollback):
        verb.add_argument("--alias", default="champion", help="the alias to move (champion)")


def list_versions(args: argparse.Namespace) -> int:
    """Print every version with its aliases and metrics, newest first."""
    from models.serve.artifact import WRONG
    from models.serve.refused import Refused

    registry = _registry()
    aliases = registry.aliases()
    rows: list[dict[str, Any]] = []
    for version in reversed(registry.versions()):
        names = sorted(name for name, target in aliases.items() if target == version)
        row: dict[str, Any] = {"version": version, "aliases": names}
        try:
            manifest = registry.show(version)
            row["created_at"] = manifest["created_at"]
            if "legacy" not in manifest:
                calibrated = manifest["metrics"]["calibrated"]
                row["rows"] = manifest["data"]["rows"]
                row |= {name: calibrated[name] for name in ("roc_auc", "brier", "ece", "base_rate")}
            row["cells"] = _cells(row)
        except Refused as refused:
            row["refused"] = str(refused)
        except WRONG:
            row["refused"] = f"model version {version}: its manifest cannot be understood"
        rows.append(row)
    if args.json:
        _print_json([{k: v for k, v in row.items() if k != "cells"} for row in rows])
    elif rows:
        _print_list(rows)
    else:
        print("There is no model in MODEL_STORE yet: leadstream train makes one.")
    for problem in registry.problems():
        print(f"Problem: {problem}.", file=sys.stderr)
    return 0


def show_version(args: argparse.Namespace) -> int:
    """Print the manifest of a version, in short or as JSON."""
    registry = _registry()
    version = _version(registry, args.version)
    manifest = registry.show(version)
    if args.json:
        _print_json(manifest)
        _warn(registry, version)
        return 0
    from rich.table import Table

    from leadstream.cli.rich_output import rich_console
    from leadstream.cli.train import metrics_table
    from models.serve.artifact import WRONG
    from models.serve.refused import Refused

    try:
        importance = manifest["features"]["importance"]
        rows_by_name = {
            "version": f"{manifest['version']} ({manifest['name']}), "
            f"made {manifest['created_at'][:19]}",
            "sha256": manifest["artifact"]["sha256"],
            "signed": _signed(registry, version),
            "size": f"{manifest['artifact']['size']:,} bytes",
            "recipe": "\n".join(manifest["recipe"]["steps"])
            + f"\nseed {manifest['recipe']['seed']}",
            "label": manifest["label"]["definition"],
            **(
                _legacy_rows(manifest["legacy"])
                if "legacy" in manifest
                else _data_rows(manifest["data"])
            ),
            "calibration": f"{manifest['calibration']['method']}, "
            f"{manifest['calibration']['points']:,} leads",
            "threshold": f"{manifest['threshold']['value']:.4f}, {manifest['threshold']['policy']}",
            "grades": ", ".join(
                f"{grade} from {cut:.4f}" for grade, cut in manifest["grades"]["cuts"].items()
            ),
            "strongest": ", ".join(sorted(importance, key=lambda name: -importance[name])[:6]),
            "libraries": ", ".join(
                f"{name} {version}" for name, version in manifest["libraries"].items()
            ),
        }
        metrics = "" if "legacy" in manifest else metrics_table(manifest)
    except WRONG as error:
        raise Refused(
            f"model version {args.version}: its manifest cannot be understood ({error_text(error)})"
        ) from error
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows_by_name.items():
        table.add_row(name, str(value))
    console = rich_console(highlight=True)
    console.print(table)
    console.print()
    console.print(metrics)
    _warn(registry, version)
    return 0


def report_version(args: argparse.Namespace) -> int:
    """Write the report of a version: one HTML file without external resources."""
    from models.serve.refused import Refused
    from models.train.report import render

    registry = _registry()
    version = _version(registry, args.version)
    try:
        page = render(registry.show(version), _signed(registry, version))
    except Refused as refused:
        raise Refused(
            f"model version {version}: {str(refused).removeprefix(f'model version {version}: ')}"
        ) from refused
    path = args.output or Path(f"model-report-{version}.html")
    try:
        path.write_text(page, "utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror})") from error
    if args.json:
        _print_json({"version": version, "file": str(path.resolve()), "bytes": len(page.encode())})
    else:
        print(f"Wrote {path}: version {version}, one file to open in any browser.")
    _warn(registry, version)
    return 0


def _data_rows(data: dict[str, Any]) -> dict[str, str]:
    return {
        "data": f"{data['rows']:,} rows, {data['leads']:,} leads, "
        f"{data['base_rate']:.1%} converted",
        "window": f"{data['from'][:10]} to {data['to'][:10]}",
    }


def _legacy_rows(legacy: dict[str, Any]) -> dict[str, str]:
    return {"lacks": "\n".join(legacy["lacks"]), "assumed": "\n".join(legacy["assumed"])}


def _signed(registry: "ModelRegistry", version: str) -> str:
    from models.serve.refused import Refused

    try:
        key = registry.signed_by(version)
    except Refused as refused:
        return str(refused)
    return f"by the key {key}" if key else "no, and LEADSTREAM_MODEL_UNSIGNED allows that"


def promote_version(args: argparse.Namespace) -> int:
    """Move an alias to a verified version."""
    from leadstream.cli.model_inputs import inputs_without_column, sentence_of
    from leadstream.settings import load_settings
    from models.registry.gate import GateRefused

    registry = _registry()
    try:
        before = registry.promote(args.version, args.alias, force=args.force)
    except GateRefused as refused:
        if not args.json:
            raise
        _print_json(
            {
                "alias": args.alias,
                "version": args.version,
                "promoted": False,
                "objections": refused.objections,
            }
        )
        return 1
    if absent := inputs_without_column(registry.show(args.version), load_settings()):
        print(f"Note: {sentence_of(args.version, absent)}.", file=sys.stderr)
    if args.json:
        _print_json(
            {"alias": args.alias, "version": args.version, "promoted": True, "before": before}
        )
    elif before == args.version:
        print(f"The {args.alias} was {args.version} already.")
    else:
        print(f"The {args.alias} is {args.version} now; before it was {before or 'not set'}.")
    return 0


def roll_back(args: argparse.Namespace) -> int:
    """Move an alias back to the previous version."""
    registry = _registry()
    before = registry.resolve(args.alias)
    version = registry.rollback(args.alias)
    if args.json:
        _print_json({"alias": args.alias, "version": version, "before": before})
    else:
        print(f"The {args.alias} is {version} again; before it was {before}.")
    return 0


def show_log(args: argparse.Namespace) -> int:
    """Print every move of every alias, oldest first."""
    moves = _registry().log()
    if args.json:
        _print_json(moves)
        return 0
    from datetime import UTC, datetime

    from rich.padding import Padding

    from leadstream.cli.rich_output import rich_console

    console = rich_console()
    for move in moves:
        when = datetime.fromtimestamp(move["at"] / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
        what = f"{move['alias']}: {move['action']} {move['from'] or '-'} → {move['to'] or '-'}"
        console.print(f"{when} UTC  {what}, by {move['by']}")
        for sentence in move.get("forced", []):
            console.print(Padding(f"forced although {sentence}", (0, 0, 0, 4)))
    if not moves:
        print("No alias was ever moved here.")
    return 0


def retire_alias(args: argparse.Namespace) -> int:
    """Remove an alias."""
    version = _registry().retire(args.alias)
    if args.json:
        _print_json({"alias": args.alias, "version": None, "before": version})
    else:
        print(f"There is no {args.alias} now; it was {version}.")
    return 0


def compare_versions(args: argparse.Namespace) -> int:
    """Compare two versions by their outcomes."""
    from leadstream.cli.models_compare import compare_by_outcomes

    registry = _registry()
    champion, challenger = (_version(registry, name) for name in (args.champion, args.challenger))
    return compare_by_outcomes(registry, champion, challenger, args.mode, as_json=args.json)


def verify_version(args: argparse.Namespace) -> int:
    """Check a version; return 1 if it may not serve."""
    from models.serve.refused import Refused

    registry = _registry()
    version = _version(registry, args.version)
    try:
        model = registry.verify(version)
    except Refused as refused:
        if not args.json:
            raise
        _print_json({"version": version, "ok": False, "refused": str(refused)})
        return 1
    golden, key = len(model.manifest["golden"]), registry.signed_by(version)
    if args.json:
        result = {
            "version": version,
            "ok": True,
            "sha256": model.sha256,
            "signed_by": key,
            "golden_rows": golden,
        }
        _print_json(result)
    else:
        print(
            f"Version {version} verifies: "
            f"{f'signed by the key {key}' if key else 'unsigned, as is allowed here'};"
        )
        print(f"size, sha256, libraries, types, features and {golden} golden rows are right.")
    return 0


def make_key_pair(args: argparse.Namespace) -> int:
    """Create the key pair of the settings that signs models."""
    from leadstream.settings import load_settings
    from models.registry.signing import PUBLIC, key_path, make_key

    path = key_path(load_settings())
    name = make_key(path)
    if args.json:
        _print_json({"key": name, "private": str(path), "public": f"{path}{PUBLIC}"})
    else:
        print(
            f"Key {name}: {path} signs, and stays where models are trained; "
            f"{path}{PUBLIC} goes to every consumer."
        )
    return 0


def import_legacy(args: argparse.Namespace) -> int:
    """Report what an audited artifact lacks and what is assumed; publish it without obstacles."""
    import time

    from leadstream.cli.train import calendar_of
    from leadstream.settings import load_settings
    from models.registry.versions import open_registry
    from models.train.legacy import inspect

    settings = load_settings()
    try:
        payload = args.file.read_bytes()
    except OSError as error:
        raise UserError(f"{args.file} cannot be read ({error.strerror})") from error
    found = inspect(payload, calendar_of(settings), time.time_ns() // 1_000_000)
    version = None
    if found.trained and not args.dry_run:
        registry = open_registry(
            settings, signs=True, say=lambda sentence: print(sentence, file=sys.stderr)
        )
        version = registry.publish(found.trained)
    if args.json:
        result = {"features": found.features, "lacks": found.lacks, "assumed": found.assumed}
        _print_json({"version": version, **result, "obstacles": found.obstacles})
        return 1 if found.obstacles else 0
    for title, sentences in (("It lacks", found.lacks), ("Assumed", found.assumed)):
        print(f"{title}:", *sentences, sep="\n- ")
    if found.obstacles:
        raise UserError(f"it cannot be served honestly: {'; '.join(found.obstacles)}")
    if version:
        print(f"Published as version {version}. To serve it: leadstream models promote {version}")
    else:
        print("It can be served with these assumptions; without --dry-run it is published.")
    return 0


def _registry() -> "ModelRegistry":
    from leadstream.settings import load_settings
    from models.registry.versions import open_registry

    return open_registry(load_settings())


def _version(registry: "ModelRegistry", name: str) -> str:
    """Return the version of a version or an alias."""
    return name if name[:1].isdigit() else registry.target(name)


def _warn(registry: "ModelRegistry", version: str) -> None:
    """Say on stderr what keeps a version out of service, if something does."""
    if problem := registry.problem_of_version(version):
        print(f"Problem: {problem}.", file=sys.stderr)


def _print_list(rows: list[dict[str, Any]]) -> None:
    from rich.box import SIMPLE
    from rich.table import Table

    from leadstream.cli.rich_output import rich_console

    table = Table(box=SIMPLE, pad_edge=False)
    table.add_column("version", no_wrap=True)
    table.add_column("alias")
    table.add_column("made", no_wrap=True)
    for name in ("rows", "base rate", "ROC-AUC", "Brier", "ECE"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        aliases = ", ".join(row["aliases"])
        if "refused" in row:
            table.add_row(row["version"], aliases, "cannot be read")
            continue
        table.add_row(row["version"], aliases, *row["cells"])
    rich_console(highlight=True).print(table)


def _cells(row: dict[str, Any]) -> list[str]:
    """Return the facts of a version as text; raises what a wrong manifest causes."""
    numbers = (
        f"{row[name]:.3f}" if name in row else "-"
        for name in ("base_rate", "roc_auc", "brier", "ece")
    )
    return [row["created_at"][:10], f"{row['rows']:,}" if "rows" in row else "-", *numbers]


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=2))
