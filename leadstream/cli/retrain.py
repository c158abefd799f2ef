"""`leadstream retrain`: train the champion's recipe on newer leads, as a candidate for the gate."""

import argparse
import json
import os
import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from features import Specification
    from models.serve.scorer import Model
    from models.train.training import TrainOptions

EPILOG = """examples:
  leadstream retrain --postgres --promote
  leadstream retrain --history --json
  leadstream retrain --csv leads.csv --mapping leads.toml --json

Recipe, calibrator, threshold, grades, horizon, features and calendar are the champion's;
Use `leadstream train` to change them. With --promote the new version serves if the gate
has no objection; otherwise the exit code is 1 and the champion stays.
"""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb `retrain`."""
    from leadstream.cli.train import add_end, add_source

    parser = subparsers.add_parser(
        "retrain",
        help="train the champion again on newer leads, through the gate",
        description="Train the recipe and the features of the champion on newer leads, and publish "
        "the result.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_source(parser)
    add_minimums(parser)
    # Set by `leadstream learn`, which ends the training by closing standard input.
    parser.add_argument("--learn", type=json.loads, help=argparse.SUPPRESS)
    add_end(parser)
    parser.set_defaults(func=run)


def add_minimums(parser: argparse.ArgumentParser) -> None:
    """Add the least numbers of leads."""
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


def run(args: argparse.Namespace) -> int:
    """Train with the champion's options; return 1 if --promote was given and the gate objects."""
    from leadstream.addresses import masked_url
    from leadstream.cli.train import check_source, make, signing_registry
    from leadstream.errors import UserError
    from leadstream.settings import load_settings
    from models.registry.versions import CHAMPION

    if args.learn is not None:
        threading.Thread(target=_leave_with_service, daemon=True).start()
    settings = load_settings()
    check_source(args, settings)
    registry = signing_registry(settings)
    version = registry.resolve(CHAMPION)
    if version is None:
        raise UserError(
            f"there is no champion in {masked_url(registry.url)} to train again: "
            "leadstream train makes the first model"
        )
    champion = registry.verify(version)
    return make(args, settings, registry, lambda: _options_of(champion, args))


def _leave_with_service() -> None:
    sys.stdin.read()
    os._exit(1)


def _options_of(champion: "Model", args: argparse.Namespace) -> "TrainOptions":
    """Return the options of the champion."""
    from leadstream.errors import UserError
    from models.train.policies import parse_policy
    from models.train.training import TrainOptions

    saved = champion.manifest.get("options")
    if saved is None:
        raise UserError(
            f"version {champion.version} does not record its options: use leadstream train"
        )
    return TrainOptions(
        horizon_days=champion.manifest["label"]["horizon_days"],
        seed=saved["seed"],
        specification=_all_inputs(champion),
        min_leads=args.least_leads,
        min_conversions=args.least_conversions,
        allow_leaks=tuple(saved["allow_leaks"]),
        recipe=saved["recipe"],
        calibrator=saved["calibrator"],
        policy=parse_policy(saved["policy"]),
        grades=saved["grades"],
        calendar=saved.get("calendar", True),
        base_rate=saved.get("base_rate"),
        source={} if args.learn is None else {"learn": args.learn},
    )


def _all_inputs(champion: "Model") -> "Specification":
    """Return the inputs that the champion's training could choose from, or those that it reads."""
    from features import FeatureSpec, specify

    given = champion.manifest["options"].get("own_fields")
    if given is None:  # versions of 0.2 and before left out none
        specification: Specification = champion.specification
        return specification
    own = tuple(
        FeatureSpec(name, kind, low, high, imputation, "own field")
        for name, kind, low, high, imputation in given
    )
    return specify(champion.specification.calendar, own=own)
