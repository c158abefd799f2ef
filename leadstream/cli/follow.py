"""`leadstream follow`: outcomes joined to the predictions."""

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from leadstream.cli.progress import bar, not_negative, positive
from leadstream.errors import SettingsError

if TYPE_CHECKING:
    from rich.table import Table

    from consumer.outcomes.monitor import MonitorOptions
    from leadstream.settings import Settings
    from models.monitor.live import Quality

EPILOG = """examples:
  leadstream follow                        # until it is stopped, with /metrics
  leadstream follow --once                 # the figures of now
  leadstream follow --recalibrate propose
"""


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "follow",
        help="join outcomes to the predictions that were made: live quality, recalibration, "
        "requests for training",
        description="Read predictions and outcomes from their topics, judge each prediction once "
        "its horizon has passed, and show Brier score, ECE, ROC-AUC and log loss of each model's "
        "newest 2,000.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--once", action="store_true", help="read to the present ends, print the figures, and exit"
    )
    parser.add_argument("--json", action="store_true", help="with --once: print one JSON object")
    parser.add_argument(
        "--recalibrate",
        choices=["never", "propose", "promote"],
        default="never",
        help="publish a patch version of the champion where its outcomes ask for one, and promote "
        "it (default never)",
    )
    parser.add_argument(
        "--every",
        type=positive,
        default=200,
        metavar="N",
        help="evaluate after N newly judged (default 200)",
    )
    parser.add_argument(
        "--max-age",
        type=not_negative,
        default=90.0,
        metavar="DAYS",
        help="ask for a training when the champion is older (default 90; 0 = never)",
    )
    parser.add_argument(
        "--outcomes",
        type=int,
        default=5000,
        metavar="N",
        help="ask for a training after N outcomes since the champion was made "
        "(default 5000; 0 = never)",
    )
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Follow until SIGTERM or SIGINT, or read once."""
    from leadstream.process.signals import leave_on_signals

    if not arguments.once:
        leave_on_signals()
    from leadstream.settings import load_settings

    if arguments.json and not arguments.once:
        raise SettingsError(
            "--json needs --once; a running process shows its figures at /metrics and in its log"
        )
    if arguments.outcomes < 0:
        raise SettingsError(f"--outcomes {arguments.outcomes}: must be 0 or more")
    settings = load_settings()
    settings.need("KAFKA_BOOTSTRAP_SERVERS", "name the brokers, for example localhost:9092")
    settings.need("MODEL_STORE", "name the folder or URL that `leadstream train` writes models to")
    from leadstream.kafka.connection_check import ConnectionCheck

    access = ConnectionCheck(settings)
    from consumer.outcomes import monitor
    from models.monitor.triggers import Triggers

    access.check()
    options = monitor.MonitorOptions(
        monitor.Recalibrate(arguments.recalibrate),
        arguments.every,
        Triggers(arguments.max_age, arguments.outcomes),
    )
    if not arguments.once:
        monitor.follow(settings, options)
        return 0
    found = _once(settings, options)
    if arguments.json:
        print(
            json.dumps(
                found | {"models": [asdict(quality) for quality in found["models"]]}, indent=2
            )
        )
    else:
        _print(found)
    return 0


def _once(settings: "Settings", options: "MonitorOptions") -> dict[str, Any]:
    """Return what the topics show now: figures, counts, due trainings, and a recalibration."""
    import sys
    import time

    from consumer.outcomes.monitor import CHAMPION_VARIANT, Recalibrate
    from consumer.outcomes.reader import horizon_lookup, learned_until_lookup, read_all
    from models.monitor.live import LiveWindows
    from models.monitor.triggers import due, in_service
    from models.registry.versions import open_registry
    from models.train import recalibrate

    wanted = options.recalibrate
    models = open_registry(
        settings,
        signs=wanted is not Recalibrate.NEVER,
        say=lambda sentence: print(sentence, file=sys.stderr),
    )
    horizon_days_of = horizon_lookup(models)
    with bar("Reading", None) as advance:
        reader, evaluated, skipped = read_all(settings, horizon_days_of, advance)
    live = LiveWindows(horizon_days_of, learned_until_of=learned_until_lookup(models))
    live.add(evaluated)
    topics, read = settings.topics, reader.records
    found: dict[str, Any] = {
        "models": live.qualities(),
        "predictions": read[topics.lead_predictions] + read[topics.shadow_predictions],
        "outcomes": read[topics.lead_outcomes],
        "judged": len(evaluated),
        "trained_on": live.trained_on,
        "pending": reader.ledger.pending,
        "dropped": reader.ledger.dropped,
        "sampled_share": reader.ledger.share,
        "skipped": {reason.value: count for reason, count in skipped.items()},
        "champion": models.resolve(),
        "retrain": {},
        "recalibrated": None,
    }
    if found["champion"] is None:
        return found
    (service, _), now_ms = in_service(models, found["champion"]), time.time_ns() // 1_000_000
    window, since = live.window(service.version, CHAMPION_VARIANT), service.created_at or 0
    new = {one.prediction.lead_id for one in evaluated if one.decided_at > since}
    found["retrain"] = due(
        service, window, new_outcomes=len(new), now_ms=now_ms, triggers=options.triggers
    )
    recent = live.window_of_trees(service.version, CHAMPION_VARIANT)
    if wanted is not Recalibrate.NEVER and recent:
        done = recalibrate.recalibrate_champion(
            models, recent, promote=wanted is Recalibrate.PROMOTE, now_ms=now_ms
        )
        found["recalibrated"] = asdict(done) if done else None
    return found


def _print(found: dict[str, Any]) -> None:
    from leadstream.cli.rich_output import rich_console

    console = rich_console()
    qualities: list[Quality] = found["models"]
    if qualities:
        console.print(_table(qualities, found["champion"]))
        console.print(
            "* in service. The newest 2,000 judged predictions of each; "
            "stated and realised are mean rates."
        )
    else:
        console.print(
            "No prediction is judged yet: a model's horizon must have passed, "
            "and outcomes must be in their topic."
        )
    console.print(
        f"{found['predictions']:,} predictions and {found['outcomes']:,} outcomes read, "
        f"{found['judged']:,} judged, {found['pending']:,} waiting."
    )
    if found["trained_on"]:
        console.print(
            f"{found['trained_on']:,} are not in the figures: they are as of leads that the model "
            "learned from."
        )
    if found["skipped"]:
        console.print("Skipped, for they could not be read:", _counts(found["skipped"]))
    if found["dropped"]:
        console.print(
            f"The figures are those of {found['sampled_share']:.3%} of the leads: "
            f"{found['dropped']:,} predictions were left out, because too many wait."
        )
    for trigger, detail in found["retrain"].items():
        console.print(f"A training is due ({trigger}): {detail}.")
    if done := found["recalibrated"]:
        state = "promoted" if done["promoted"] else "published"
        console.print(
            f"Recalibrated: version {done['version']} {state}, "
            f"log-odds moved by {done['shift']:+.3f}."
        )
        for objection in done["objections"]:
            console.print(f"- not promoted: {objection}")


def _table(qualities: "list[Quality]", champion: str | None) -> "Table":
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("version", "variant"):
        table.add_column(heading, no_wrap=True)
    for heading in ("judged", "stated", "realised", "Brier", "ECE", "ROC-AUC", "log loss"):
        table.add_column(heading, justify="right", no_wrap=True)
    for each in qualities:
        auc = "-" if each.roc_auc is None else f"{each.roc_auc:.3f}"
        rates = (f"{each.mean_probability:.1%}", f"{each.base_rate:.1%}")
        numbers = (f"{each.brier:.3f}", f"{each.ece:.3f}", auc, f"{each.log_loss:.3f}")
        serves = each.model_version == champion and each.variant == "champion"
        table.add_row(
            f"{each.model_version}{' *' if serves else ''}",
            each.variant,
            f"{each.judged:,}",
            *rates,
            *numbers,
        )
    return table


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in counts.items()) + "."
