"""`leadstream train`: a table of lead states with outcomes to a new version in the model store."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commands.progress import share
from leadstream.errors import SettingsError

if TYPE_CHECKING:
    import pandas as pd
    from rich.progress import Progress
    from rich.table import Table

    from features import Specification
    from leadstream.settings import Settings
    from producer.importer import Problem

EPILOG = """examples:
  leadstream train --postgres --horizon 60 --promote
  leadstream train --csv leads.csv --mapping leads.toml --json

The first version of a store becomes the champion by itself; later ones do with
--promote, or with `leadstream models promote VERSION`.
"""
DEFAULT_HORIZON = 60.0
PROBLEMS_SHOWN = 10
# Metric -> what it is called in the table.
SHOWN = {
    "roc_auc": "ROC-AUC",
    "pr_auc": "PR-AUC",
    "log_loss": "log loss",
    "brier": "Brier score",
    "ece": "ECE, 15 bins",
    "calibration_slope": "calibration slope",
    "calibration_intercept": "calibration intercept",
    "lift_at_10_percent": "lift at 10 %",
    "threshold": "threshold",
    "precision": "precision there",
    "recall": "recall there",
    "accuracy": "accuracy there",
}


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb `train`."""
    parser = subparsers.add_parser(
        "train",
        help="train a model on past leads and publish it",
        description="Train on past leads, judge on the newest of them, publish to MODEL_STORE as the next version.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--csv", metavar="FILE", type=Path, help="a CRM export; needs --mapping")
    source.add_argument("--postgres", action="store_true", help="the history of leads in DATABASE_URL")
    parser.add_argument("--mapping", metavar="MAP.toml", type=Path, help="which column is which field of a lead")
    parser.add_argument("--oldest", type=share, metavar="X", help="with --csv: only this share of the rows, the oldest")
    parser.add_argument(
        "--horizon",
        type=_days,
        metavar="DAYS",
        help="a lead converted if it applied within this many days after the moment of prediction "
        f"(with --postgres: {DEFAULT_HORIZON:g})",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the forest (0)")
    parser.add_argument("--promote", action="store_true", help="make the new version the champion")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Train, publish, promote if asked to or if there is no champion, and print what came of it."""
    from leadstream.settings import load_settings
    from models.registry import CHAMPION, ModelRegistry
    from models.train import TrainOptions, train

    if args.csv and not args.mapping:
        raise SettingsError("--csv needs --mapping: a TOML file that says which column is which field")
    if args.postgres and (args.mapping or args.oldest is not None):
        raise SettingsError("--mapping and --oldest go with --csv")
    settings = load_settings()
    registry = ModelRegistry(settings.need("MODEL_STORE", "set it to the folder or fsspec URL where models are kept"))
    horizon = args.horizon if args.csv else args.horizon or DEFAULT_HORIZON
    with _progress() as progress:
        task = progress.add_task("reading leads", total=1.0)
        table, specification, problems = _table(args, settings, horizon)
        trained = train(
            table,
            TrainOptions(horizon_days=horizon, seed=args.seed, specification=specification),
            lambda stage, share: progress.update(task, description=stage, completed=share),
        )
        progress.update(task, description="publishing")
        version = registry.publish(trained)
        champion = registry.resolve(CHAMPION)
        first = champion is None
        if first or args.promote:
            registry.promote(version)
    if args.json:
        result = {
            "version": version,
            "promoted": first or args.promote,
            "champion": version if first or args.promote else champion,
            "refused": [{"line": problem.line, "problem": problem.what} for problem in problems],
            "data": trained.manifest["data"],
            "metrics": trained.manifest["metrics"],
        }
        print(json.dumps(result, indent=2))
        return 0
    _report(version, trained.manifest, problems)
    if first:
        print(f"Version {version} is the champion: there was none before.")
    elif args.promote:
        print(f"Version {version} is the champion; before it was {champion}.")
    else:
        print(f"The champion is still {champion}. To serve this one: leadstream models promote {version}")
    return 0


def metrics_table(manifest: dict[str, Any]) -> "Table":
    """The metrics of a manifest: the calibrated probability beside the raw score and the audited formula."""
    from rich.table import Table

    table = Table(title="On the newest leads, with all fitted on older ones", title_justify="left")
    table.add_column("")
    for name in ("calibrated", "raw score", "audited formula"):
        table.add_column(name, justify="right")
    columns = [manifest["metrics"][name] for name in ("calibrated", "raw", "legacy_sigmoid")]
    for key, label in SHOWN.items():
        table.add_row(label, *("-" if column[key] is None else f"{column[key]:.3f}" for column in columns))
    return table


def _report(version: str, manifest: dict[str, Any], problems: "list[Problem]") -> None:
    from rich.console import Console

    for problem in problems[:PROBLEMS_SHOWN]:
        print(f"line {problem.line} is left out: {problem.what}", file=sys.stderr)
    if len(problems) > PROBLEMS_SHOWN:
        print(f"{len(problems) - PROBLEMS_SHOWN:,} more are left out; --json names them all", file=sys.stderr)
    data = manifest["data"]
    print(
        f"Version {version}: {data['rows']:,} rows of {data['leads']:,} leads, {data['base_rate']:.1%} converted, "
        f"{data['from'][:10]} to {data['to'][:10]}."
    )
    Console().print(metrics_table(manifest))


def _table(
    args: argparse.Namespace, settings: "Settings", horizon: float | None
) -> tuple["pd.DataFrame", "Specification", "list[Problem]"]:
    """The leads to train on, the features to make of them, and the rows that were refused."""
    from features import CalendarSettings, specify

    month, day = settings.academic_year_start.split("-")
    season = tuple(int(number) for number in settings.season_months.split(","))
    try:
        calendar = CalendarSettings(settings.time_zone, int(month), int(day), season)
    except SettingsError as error:
        names = "LEADSTREAM_TIME_ZONE, LEADSTREAM_ACADEMIC_YEAR_START, LEADSTREAM_SEASON_MONTHS"
        raise SettingsError(f"{error} ({names})") from None
    if args.csv:
        from producer.importer import read_table
        from producer.mapping import load_mapping

        mapping = load_mapping(args.mapping)
        table, problems = read_table(args.csv, mapping, oldest=args.oldest)
        return table, specify(calendar, tuple(mapping.numbers), tuple(mapping.categories)), problems
    from producer.crm import training_table

    database_url = settings.need("DATABASE_URL", "--postgres reads the history of leads there")
    return training_table(database_url, horizon or DEFAULT_HORIZON), specify(calendar), []


def _progress() -> "Progress":
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )


def _days(text: str) -> float:
    try:
        days = float(text)
    except ValueError:
        days = 0.0
    if not 0 < days <= 3650:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of days above 0 and up to 3650")
    return days
