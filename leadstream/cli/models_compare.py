"""`leadstream models compare`: compare two versions by their predictions and the outcomes."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from leadstream.cli.progress import bar
from leadstream.errors import UserError
from leadstream.settings import load_settings

if TYPE_CHECKING:
    from models.monitor.compare import ComparisonMode, PredictionPairs, VersionComparison
    from models.registry.versions import ModelRegistry

_NAMES = {
    "brier": "Brier score",
    "log_loss": "log loss",
    "roc_auc": "ROC-AUC",
    "ece": "ECE, 15 bins",
}


def compare_by_outcomes(
    registry: "ModelRegistry", champion: str, challenger: str, mode: str | None, *, as_json: bool
) -> int:
    """Print which version is better, and the figures on the leads of the comparison."""
    from consumer.outcomes.reader import read_evaluated
    from leadstream.kafka.connection_check import ConnectionCheck
    from models.monitor.compare import (
        ComparisonMode,
        compare,
        fully_labeled,
        shadow_pairs,
        split_pairs,
        without_learned,
    )
    from models.monitor.ledger import read_horizon, read_learned_until

    if champion == challenger:
        raise UserError(
            f"{champion} is both champion and challenger; "
            "name another one with --champion or --challenger"
        )
    manifests = {version: registry.show(version) for version in (champion, challenger)}
    horizons = {version: read_horizon(manifest) for version, manifest in manifests.items()}
    if horizons[champion] != horizons[challenger]:
        meant = (
            f"{version} predicts what happens {_within(days)}" for version, days in horizons.items()
        )
        raise UserError(f"{', '.join(meant)}: no outcome shows which is better")
    settings = load_settings()
    ConnectionCheck(settings).check()
    with bar("Reading", None, visible=not as_json) as advance:
        evaluated = read_evaluated(settings, horizons.get, progress=advance)
    known = fully_labeled(evaluated, horizons[champion])
    fresh, trained_on = without_learned(
        (one for one in known if one.prediction.model_version in manifests),
        map(read_learned_until, manifests.values()),
    )
    found = {
        ComparisonMode.SHADOW: shadow_pairs(fresh, champion, challenger),
        ComparisonMode.SPLIT: split_pairs(fresh, champion, challenger),
    }
    chosen = (
        ComparisonMode(mode)
        if mode
        else (
            ComparisonMode.SHADOW
            if found[ComparisonMode.SHADOW].champion.size
            else ComparisonMode.SPLIT
        )
    )
    pairs = found[chosen]
    comparison = compare(pairs.differences)
    if as_json:
        _print_json(champion, challenger, chosen, comparison, pairs, trained_on=trained_on)
        return 0
    print(_sentence(comparison, champion, challenger, chosen, horizons[champion]))
    if comparison.n:
        _print_table(champion, challenger, comparison, pairs)
    if trained_on:
        print(
            f"{trained_on:,} predictions are not compared: they are as of leads that one of the "
            "two\nlearned from."
        )
    return 0


def _within(days: float | None) -> str:
    return "at any time" if days is None else f"within {days:g} days"


def _sentence(
    comparison: "VersionComparison",
    champion: str,
    challenger: str,
    mode: "ComparisonMode",
    days: float | None,
) -> str:
    from models.monitor.compare import ComparisonMode, ComparisonResult

    on = (
        "leads that both scored" if mode is ComparisonMode.SHADOW else "pairs of leads, one of each"
    )
    if not comparison.n:
        until = (
            "its outcome is known"
            if days is None
            else f"{days:g} days have passed since its prediction"
        )
        kept = "\nThe topics must keep its prediction for longer than that." if days else ""
        return f"Not yet: there are no {on}, with an outcome.\nA lead counts once {until}.{kept}"
    on = f"on {comparison.n:,} {on}"
    match comparison.result:
        case ComparisonResult.BETTER:
            return (
                f"Better, {on}: {challenger} is closer to the outcomes.\n"
                f"To put it into service: leadstream models promote {challenger}"
            )
        case ComparisonResult.WORSE:
            return (
                f"Worse, {on}: {champion} is closer to the outcomes.\n"
                "To end the trial: leadstream models retire"
            )
        case ComparisonResult.NOT_YET:
            return f"Not yet, {on}: neither is proven to be better.\nAsk again after more outcomes."


def _print_table(
    champion: str, challenger: str, comparison: "VersionComparison", pairs: "PredictionPairs"
) -> None:
    from rich.box import SIMPLE
    from rich.table import Table

    from leadstream.cli.rich_output import rich_console

    table = Table(box=SIMPLE, pad_edge=False)
    table.add_column(f"{comparison.n:,} pairs")
    for column in (f"{champion}\nchampion", f"{challenger}\nchallenger"):
        table.add_column(column, justify="right", no_wrap=True)
    figures = _figures(pairs)
    for name, title in _NAMES.items():
        values = (figures[side][name] for side in ("champion", "challenger"))
        table.add_row(title, *("-" if value is None else f"{value:.4f}" for value in values))
    rich_console(highlight=True).print(table)
    sure = f"{1 - comparison.alpha:.0%}"
    print(f"Brier score, challenger minus champion: {comparison.difference:+.4f},")
    print(
        f"{sure} interval {comparison.low:+.4f} to {comparison.high:+.4f}, "
        "at any number of outcomes."
    )


def _print_json(
    champion: str,
    challenger: str,
    mode: "ComparisonMode",
    comparison: "VersionComparison",
    pairs: "PredictionPairs",
    *,
    trained_on: int,
) -> None:
    versions = {"champion": champion, "challenger": challenger}
    figures = _figures(pairs) if comparison.n else None
    fields = asdict(comparison)
    # Scripts read the result as "verdict".
    result = {**versions, "mode": mode, "verdict": fields.pop("result"), **fields}
    print(json.dumps({**result, "trained_on": trained_on, "figures": figures}, indent=2))


def _figures(pairs: "PredictionPairs") -> dict[str, dict[str, float | None]]:
    from models.monitor.compare import quality

    return {
        "champion": quality(pairs.champion, pairs.champion_converted),
        "challenger": quality(pairs.challenger, pairs.challenger_converted),
    }
