"""`leadstream train`: train on past leads, and publish a new version to the model store."""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leadstream.cli.progress import share, stages
from leadstream.cli.training_history import add_history
from leadstream.errors import SettingsError, UserError, error_text

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

    from features import CalendarSettings, FeatureSpec
    from leadstream.settings import Settings
    from models.registry.versions import ModelRegistry
    from models.serve.scorer import Model
    from models.train.training import TrainOptions

EPILOG = """examples:
  leadstream train --postgres --horizon 60 --promote
  leadstream train --csv leads.csv --mapping leads.toml --json
  leadstream train --parquet leads.parquet --mapping leads.toml
  leadstream train --history --horizon 60 --features features.toml
  leadstream train --postgres --features features.toml --allow-leak status

The first version of a store becomes the champion by itself; later ones do with
--promote, or with `leadstream models promote VERSION`.
"""
DEFAULT_HORIZON = 60.0
MIN_BASE_RATE = 1e-5
# Copied from models.train: an import would load scikit-learn, a second that --help must not take.
_RECIPES = ("audited", "forest", "boosting", "additive")
_CALIBRATORS = ("isotonic", "sigmoid", "venn_abers", "prior_shift", "none", "legacy_sigmoid")


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb `train`."""
    parser = subparsers.add_parser(
        "train",
        help="train a model on past leads and publish it",
        description="Train on past leads, evaluate on the newest, and publish to MODEL_STORE\n"
        "as the next version.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_source(parser)
    parser.add_argument(
        "--features",
        metavar="FEATURES.toml",
        type=Path,
        help="the CRM's own fields that become features (default: all fields of --mapping); "
        "also a mapping, or the description of a CRM",
    )
    parser.add_argument(
        "--horizon",
        type=_days,
        metavar="DAYS",
        help="a lead converted if it applied within this many days after the moment of prediction "
        f"(with --postgres and --history: {DEFAULT_HORIZON:g}; a file needs outcome.decided_at in "
        "its mapping)",
    )
    parser.add_argument(
        "--recipe",
        choices=(*_RECIPES, "best"),
        default="best",
        metavar="RECIPE",
        help="what to train: the audited forest (audited), the same without class weights "
        "(forest), gradient boosting (boosting), boosting of trees with one split (additive), or "
        "the one with the lowest loss in time-ordered folds (best, the default)",
    )
    parser.add_argument(
        "--calibrator",
        choices=(*_CALIBRATORS, "best"),
        default="best",
        metavar="METHOD",
        help=f"how scores become probabilities: {', '.join(_CALIBRATORS)}, or the one with the "
        "lowest loss on later leads, if it gains at all (best, the default)",
    )
    parser.add_argument(
        "--threshold-policy",
        metavar="POLICY",
        default="f1",
        help="when `prediction` is true: f1 (largest F1), capacity:0.1 (the top tenth of leads) "
        "or cost:5 (a missed lead costs five wasted calls)",
    )
    parser.add_argument(
        "--grade-cuts",
        metavar="A,B,C",
        help="the lowest probabilities of the grades A, B, C (default: by shares of leads: "
        "10, 20 and 30 %%)",
    )
    parser.add_argument(
        "--base-rate",
        type=_rate,
        metavar="RATE",
        help="the known rate of conversions among all leads, if the file is a sample with another "
        "rate (0.031)",
    )
    parser.add_argument(
        "--no-calendar",
        action="store_true",
        help="use no month, week, weekday or hour of created_at, even if the folds gain by them",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the trees (0)")
    parser.add_argument(
        "--allow-leak",
        action="append",
        default=[],
        metavar="FEATURE",
        help="use this feature although it seems to leak the outcome; the manifest records it "
        "(repeatable)",
    )
    parser.add_argument(
        "--least-leads", type=int, default=1_000, metavar="N", help="refuse fewer leads (1,000)"
    )
    parser.add_argument(
        "--least-conversions",
        type=int,
        default=120,
        metavar="N",
        help="refuse fewer leads that converted (120)",
    )
    add_end(parser)
    parser.set_defaults(func=run)


def add_source(parser: argparse.ArgumentParser) -> None:
    """Add the options for the source of the leads."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--csv", metavar="FILE", type=Path, help="a CRM export; needs --mapping")
    source.add_argument(
        "--parquet", metavar="FILE", type=Path, help="the same as Parquet; needs --mapping"
    )
    source.add_argument(
        "--postgres",
        action="store_true",
        help="the leads in DATABASE_URL: their history, or the table of LEADSTREAM_FIELDS",
    )
    source.add_argument(
        "--history",
        action="store_true",
        help="the changes and outcomes at LEADSTREAM_HISTORY: leads as they were",
    )
    parser.add_argument(
        "--mapping", metavar="MAP.toml", type=Path, help="the column of each field of a lead"
    )
    parser.add_argument(
        "--oldest",
        type=share,
        metavar="X",
        help="of a file: only this share of the rows, the oldest",
    )
    parser.add_argument(
        "--max-refused",
        type=share,
        default=0.05,
        metavar="X",
        help="of a file: stop if more than this share of the rows is refused (0.05)",
    )
    add_history(parser)


def add_end(parser: argparse.ArgumentParser) -> None:
    """Add the options for the new version."""
    parser.add_argument(
        "--promote",
        action="store_true",
        help="make the new version the champion, if the gate accepts it",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Train, publish, promote on request or as the first version, and print the result."""
    from leadstream.settings import load_settings
    from models.train.policies import parse_cuts, parse_policy
    from models.train.training import TrainOptions

    options = TrainOptions(
        horizon_days=args.horizon or (DEFAULT_HORIZON if args.postgres or args.history else None),
        seed=args.seed,
        min_leads=args.least_leads,
        min_conversions=args.least_conversions,
        allow_leaks=tuple(args.allow_leak),
        recipe=args.recipe,
        calibrator=args.calibrator,
        policy=parse_policy(args.threshold_policy),
        grades=parse_cuts(args.grade_cuts) if args.grade_cuts else None,
        calendar=not args.no_calendar,
        base_rate=args.base_rate,
    )
    settings = load_settings()
    check_source(args, settings)
    registry = signing_registry(settings)
    return make(args, settings, registry, lambda: _specified(args, settings, options))


def signing_registry(settings: "Settings") -> "ModelRegistry":
    """Return the registry with the signing key; create and report a first key."""
    from models.registry.versions import open_registry

    return open_registry(
        settings, signs=True, say=lambda sentence: print(sentence, file=sys.stderr)
    )


def check_source(args: argparse.Namespace, settings: "Settings") -> None:
    """Check the options of the source; LEADSTREAM_FIELDS is the default of --mapping.

    Raises SettingsError.
    """
    stored = args.postgres or args.history
    if stored and (args.mapping or args.oldest is not None):
        raise SettingsError("--mapping and --oldest go with --csv or --parquet")
    if args.history and getattr(args, "base_rate", None) is not None:
        raise SettingsError("--base-rate goes with a file: a history knows the rate of its leads")
    if not stored and not args.mapping:
        if settings.crm_description is None:
            named = "--csv" if args.csv else "--parquet"
            raise SettingsError(
                f"{named} needs --mapping, or LEADSTREAM_FIELDS: a TOML file with the column of "
                "each field"
            )
        args.mapping = Path(settings.crm_description)


def make(
    args: argparse.Namespace,
    settings: "Settings",
    registry: "ModelRegistry",
    specified: "Callable[[], TrainOptions]",
) -> int:
    """Read the leads, train with the options of `specified`, publish, and promote through the gate.

    Returns 1 if promotion was requested and the gate objects; the version is published anyway.
    """
    from leadstream.cli.model_inputs import inputs_without_column, sentence_of
    from models.registry.gate import GateRefused
    from models.train.training import train

    with stages() as advance:
        registry.check_writable()
        advance("reading leads", 0.0)
        options = specified()
        table, options, file_report = _table(args, settings, options, advance)
        before, champion = _present_champion(registry)
        trained = train(
            table,
            options,
            advance,
            champion,
        )
        advance("publishing", 0.99)
        version = registry.publish(trained)
        objections: list[str] = []
        promoted = before is None or args.promote
        if promoted:
            try:
                registry.promote(version)
            except GateRefused as refused:
                promoted, objections = False, refused.objections
    code = 1 if objections and args.promote else 0
    absent = inputs_without_column(trained.manifest, settings)
    if args.json:
        result = {
            "version": version,
            "promoted": promoted,
            "objections": objections,
            "champion": version if promoted else before,
            **file_report,
            "data": trained.manifest["data"],
            "leaks": trained.manifest["leaks"],
            "inputs": trained.manifest["inputs"],
            "warnings": warnings(trained.manifest),
            "evidence": trained.manifest["evidence"],
            "recipe": trained.manifest["recipe"]["name"],
            "log_loss_of_recipes": trained.manifest["candidates"]["log_loss"],
            "calibrator": trained.manifest["calibration"]["name"],
            "metrics": trained.manifest["metrics"],
            "inputs_without_column": absent,
        }
        print(json.dumps(result, indent=2))
        return code
    _report(version, trained.manifest)
    if absent:
        print(f"Note: {sentence_of(version, absent)}.")
    for objection in objections:
        print(f"Not promoted: {objection}.", file=sys.stderr)
    if promoted:
        print(
            f"Version {version} is the champion"
            f"{f'; before it was {before}' if before else ', the first one'}."
        )
    else:
        what = f"The champion is still {before}" if before else "There is no champion yet"
        force = " --force" if objections else ""
        print(f"{what}. To serve this one: leadstream models promote {version}{force}")
    return code


def _present_champion(registry: "ModelRegistry") -> "tuple[str | None, Model | None]":
    """Return the version and the model of the champion, None if there is none; report a fault."""
    from models.registry.versions import CHAMPION, UNREADABLE
    from models.serve.refused import Refused

    before: str | None = UNREADABLE
    try:
        before = registry.resolve(CHAMPION)
        return before, registry.verify(registry.target(CHAMPION)) if before else None
    except Refused as refused:  # the gate reports a champion that cannot serve
        if before == UNREADABLE:
            print(f"Problem: {refused}.", file=sys.stderr)
    except UserError as error:
        print(f"Problem: {error}.", file=sys.stderr)
    return before, None


def metrics_table(manifest: dict[str, Any]) -> "Table":
    """Return the metrics of the calibrated probability, the raw score and the audited formula."""
    from rich.table import Table

    from models.train.report import LABELS

    judged = manifest["data"]["judged"]["test"]
    leads = f" of {judged['leads']:,} leads" if "leads" in judged else ""
    title = f"On the newest {judged['rows']:,} rows{leads}; everything is fitted on older ones"
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for name in ("calibrated", "raw score", "audited formula"):
        table.add_column(name, justify="right")
    columns = [manifest["metrics"][name] for name in ("calibrated", "raw", "legacy_sigmoid")]
    for key, label in LABELS.items():
        table.add_row(
            label, *("-" if column[key] is None else f"{column[key]:.3f}" for column in columns)
        )
    return table


def warnings(manifest: dict[str, Any]) -> list[str]:
    """Return what a person should know before the model serves, a sentence each without a stop."""
    found = list(manifest["leaks"]["warnings"].values())
    auc, best = manifest["metrics"]["calibrated"]["roc_auc"], manifest["inputs"]["best_alone"]
    if best.get("better"):
        found.append(
            f"the model ranks worse (ROC-AUC {auc:.3f}) than {best['name']} alone "
            f"({best['roc_auc']:.3f})"
        )
    return found


def _report(version: str, manifest: dict[str, Any]) -> None:
    from leadstream.cli.rich_output import rich_console

    for name in manifest["leaks"]["allowed"]:
        print(
            f"{name} was allowed although it seems to leak: {manifest['leaks']['found'][name]}",
            file=sys.stderr,
        )
    for sentence in warnings(manifest):
        print(f"Warning: {sentence}.", file=sys.stderr)
    data = manifest["data"]
    print(
        f"Version {version}: {data['rows']:,} rows of {data['leads']:,} leads, "
        f"{data['base_rate']:.1%} converted, {data['from'][:10]} to {data['to'][:10]}."
    )
    console = rich_console()
    losses = manifest["candidates"]["log_loss"]
    if len(losses) > 1:
        formatted = ", ".join(
            f"{name} {'-' if loss is None else f'{loss:.4f}'}" for name, loss in losses.items()
        )
        console.print(
            f"Recipe {manifest['recipe']['name']}; log loss in time-ordered folds: {formatted}."
        )
    for why in dict.fromkeys(manifest["inputs"]["left_out"].values()):
        names = [name for name, text in manifest["inputs"]["left_out"].items() if text == why]
        console.print(f"Left out, because {why}: {', '.join(names)}.", markup=False)
    for name, group in manifest["inputs"]["groups"].items():
        used = "used" if group["used"] else "left out"
        console.print(
            f"Inputs of {name}: {used}; their gain in log loss in time-ordered folds is "
            f"{group['gain']:.4f} ± {group['standard_error']:.4f}.",
            markup=False,
        )
    print(f"Calibrator {manifest['calibration']['name']}: {manifest['calibration']['method']}.")
    rich_console(highlight=True).print(metrics_table(manifest))


def calendar_of(settings: "Settings") -> "CalendarSettings":
    """Return the calendar of the settings. Raises SettingsError with their names."""
    from features import CalendarSettings

    month, day = settings.academic_year_start.split("-")
    season = tuple(int(number) for number in settings.season_months.split(","))
    try:
        return CalendarSettings(settings.time_zone, int(month), int(day), season)
    except SettingsError as error:
        names = "LEADSTREAM_TIME_ZONE, LEADSTREAM_ACADEMIC_YEAR_START, LEADSTREAM_SEASON_MONTHS"
        raise SettingsError(f"{error} ({names})") from None


def _specified(
    args: argparse.Namespace, settings: "Settings", options: "TrainOptions"
) -> "TrainOptions":
    """Return the options with the features of mapping, specification file and settings."""
    from features import specify

    path = args.features or args.mapping
    if path is None and (args.postgres or args.history) and settings.crm_description:
        path = Path(settings.crm_description)
    own = _own_fields(path) if path else ()
    return replace(options, specification=specify(calendar_of(settings), own=own))


def _table(
    args: argparse.Namespace,
    settings: "Settings",
    options: "TrainOptions",
    advance: Callable[[str, float], None],
) -> tuple["pd.DataFrame", "TrainOptions", dict[str, Any]]:
    """Return the leads to train on, the options with their source, and the file's report."""
    horizon = options.horizon_days or DEFAULT_HORIZON
    if args.history:
        from leadstream.cli.training_history import read_history

        table, found = read_history(args, settings, horizon, advance)
        source = {**options.source, "history": found.source}
        options = replace(options, horizon_days=horizon, kept=found.kept, source=source)
        return table, options, {"refused": []}
    if args.postgres:
        return _postgres_table(settings, horizon), options, {"refused": []}
    from leadstream.cli.training_file import read_training_file
    from producer.mapping import load_mapping

    mapping = load_mapping(args.mapping)
    origins = mapping.origins()
    own = [spec.name for spec in options.specification.inputs if "." in spec.name]
    if absent := [name for name in own if name not in origins]:
        named_by = getattr(args, "features", None) or "the champion"  # retrain takes no file
        raise SettingsError(f"{named_by} names {absent[0]}, which {args.mapping} does not read")
    table, file_report = read_training_file(args, mapping, options.horizon_days)
    return table, replace(options, origins=origins), file_report


def _postgres_table(settings: "Settings", horizon_days: float) -> "pd.DataFrame":
    from leadstream.cli.training_database import described_table
    from producer.crm import training_table
    from schemas.description_file import described_crm

    database_url = settings.need("DATABASE_URL", "--postgres reads the leads there")
    description = described_crm(settings)
    if description is None or description.database is None:
        return training_table(database_url, horizon_days)
    return described_table(database_url, description, horizon_days)


def _own_fields(path: Path) -> "tuple[FeatureSpec, ...]":
    """Return the own fields of a specification file, a mapping, or a description of a CRM.

    Raises SettingsError with the name of the file.
    """
    import tomllib

    from features import own_fields
    from schemas.description_file import load_description

    try:
        document = tomllib.loads(path.read_text("utf-8"))
        described = "lead" in document
        return own_fields(load_description(path).feature_document() if described else document)
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not TOML: {error_text(error)}") from None
    except SettingsError as error:
        named = str(error).startswith(f"{path}: ")
        raise SettingsError(str(error) if named else f"{path}: {error}") from None


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not MIN_BASE_RATE <= rate <= 1 - MIN_BASE_RATE:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a rate from {MIN_BASE_RATE:.5f} to {1 - MIN_BASE_RATE:.5f}, such as "
            "0.031"
        )
    return rate


def _days(text: str) -> float:
    try:
        days = float(text)
    except ValueError:
        days = 0.0
    if not 0 < days <= 3650:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of days above 0 and up to 3650")
    return days
