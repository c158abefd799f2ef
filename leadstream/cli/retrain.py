"""`leadstream retrain`: the champion's recipe on newer leads, as a candidate that must pass the gate."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from models.serve.scorer import Model
    from models.train.training import TrainOptions

EPILOG = """examples:
  leadstream retrain --postgres --promote
  leadstream retrain --csv leads.csv --mapping leads.toml --json

Recipe, calibrator, threshold, grades, horizon, features and calendar are the champion's;
`leadstream train` is for changing them. With --promote the new version serves if the gate
finds nothing against it; if it does, the exit code is 1 and the champion stays.
"""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb `retrain`."""
    from leadstream.cli.train import add_end, add_source

    parser = subparsers.add_parser(
        "retrain",
        help="train the champion anew on newer leads, through the gate",
        description="Train the champion's recipe and features on newer leads, and publish what comes of it.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_source(parser)
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


def run(args: argparse.Namespace) -> int:
    """Train as the champion was; 1 where --promote was given and the gate objects."""
    from leadstream.cli.train import check_source, make, signing_registry
    from leadstream.errors import UserError
    from leadstream.settings import load_settings, masked_url
    from models.registry.versions import CHAMPION

    check_source(args)
    settings = load_settings()
    registry = signing_registry(settings)
    version = registry.resolve(CHAMPION)
    if version is None:
        raise UserError(
            f"there is no champion in {masked_url(registry.url)} to train anew: leadstream train makes the first model"
        )
    champion = registry.verify(version)
    return make(args, settings, registry, lambda: _as_it_was(champion, args))


def _as_it_was(champion: "Model", args: argparse.Namespace) -> "TrainOptions":
    """The options that the champion was trained with."""
    from leadstream.errors import UserError
    from models.serve.decide import policy_of
    from models.train.training import TrainOptions

    told = champion.manifest.get("options")
    if told is None:
        raise UserError(
            f"version {champion.version} does not say how it was trained: use leadstream train"
        )
    return TrainOptions(
        horizon_days=champion.manifest["label"]["horizon_days"],
        seed=told["seed"],
        specification=champion.specification,
        least_leads=args.least_leads,
        least_conversions=args.least_conversions,
        allow_leaks=tuple(told["allow_leaks"]),
        recipe=told["recipe"],
        calibrator=told["calibrator"],
        policy=policy_of(told["policy"]),
        grades=told["grades"],
    )
