"""The course of the demo: the ground, a CRM and its model, the consumer, the changes, the books."""

import contextlib
import os
import shlex
import shutil
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from consumer.dead_letters.selection import Filter
from consumer.dead_letters.service import TriageService
from leadstream.cli.demo import display as view
from leadstream.cli.demo.accounting import Counted, calibration, latencies, problems
from leadstream.cli.demo.display import Moment, Screen
from leadstream.cli.demo.environment import ground
from leadstream.cli.demo.traffic import Sender, Subscriber
from leadstream.local.process import Child, await_ready, failed, scratch
from leadstream.settings import LogLevel, Settings
from models.registry.versions import open_registry
from models.train.training import TrainOptions, train
from producer.crm import connected, create_schema, fill, training_table
from producer.simulator import DAY_MS, SimulatedCrm

_YEAR_DAYS = 365
_HORIZON_DAYS = 30
_LEAST_LEADS = 4_000
_TICK_SECONDS = 0.25
_STALL_SECONDS = 60.0
_STOP_SECONDS = 30.0
_OWN = ("KAFKA_BOOTSTRAP_SERVERS", "SCHEMA_REGISTRY_URL", "DATABASE_URL", "MODEL_STORE")


@dataclass(frozen=True, slots=True)
class Options:
    """How much is sent, how fast (records a second), from which CRM, and whether all is kept running afterwards."""

    changes: int
    bad: int
    rate: int
    seed: int
    keep: bool


@dataclass(frozen=True, slots=True)
class Run:
    """All that is needed while changes go through."""

    screen: Screen
    options: Options
    settings: Settings
    consumer: Child
    sender: Sender
    subscriber: Subscriber


def demo(options: Options) -> int:
    """Run the whole of it; returns 0 if the books balance, else 1. Ctrl-C and SIGTERM leave nothing behind either."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    screen = Screen()
    screen.console.print("Leadstream on this machine: lead changes in, calibrated predictions out.")
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(scratch("demo"))
        screen.heading("1  The ground")
        environment, settings = ground(stack, screen, folder)
        screen.heading("2  A CRM and its model")
        crm, since, now = _crm(screen, settings, options)
        _model(screen, settings, options.seed)
        screen.heading("3  The consumer")
        consumer = _consumer(stack, screen, folder, settings, environment)
        screen.heading("4  Lead changes")
        sender = Sender(
            settings, crm, since=since, now=now, changes=options.changes, bad=options.bad
        )
        run = Run(screen, options, settings, consumer, sender, Subscriber(settings))
        counted, trouble = _traffic(run)
        topics = (settings.topics.lead_changes, settings.topics.rescore_requests)
        trouble += problems(sender.sent, run.subscriber.seen, counted, topics)
        _report(run, counted, trouble)
        _triage(screen, settings)
        _further(screen, options, environment)
        if options.keep:
            _keep(screen, consumer)
        screen.console.print()
    return 1 if trouble else 0


def _crm(screen: Screen, settings: Settings, options: Options) -> tuple[SimulatedCrm, int, int]:
    """The CRM with its history in Postgres, the moment up to which it is history, and the present (ms UTC)."""
    began, now = time.monotonic(), time.time_ns() // 1_000_000
    with screen.progress("making a CRM") as update:
        update("making a CRM", 0.0)
        crm = SimulatedCrm(
            options.seed,
            start=now - _YEAR_DAYS * DAY_MS,
            leads=max(_LEAST_LEADS, options.changes),
            days=_YEAR_DAYS,
            horizon_days=_HORIZON_DAYS,
        )
        since = crm.moment(-options.changes, until=now)
        expected, written = len(crm) - options.changes, 0

        def advance(changes: int) -> None:
            nonlocal written
            written += changes
            if written % 500 == 0:
                update("writing its history to Postgres", written / expected)

        with connected(settings.need("DATABASE_URL", "the demo's CRM")) as conn:
            create_schema(conn)
            filled = fill(conn, crm, since, advance)
    screen.say(
        f"CRM: {filled.people:,} leads, {filled.changes:,} changes and {filled.applications:,} applications "
        f"in Postgres, in {time.monotonic() - began:.1f} s"
    )
    return crm, since, now


def _model(screen: Screen, settings: Settings, seed: int) -> None:
    """Train on that history, publish, and make it the champion."""
    began = time.monotonic()
    with screen.progress("reading the history") as update:
        update("reading the history", 0.0)
        table = training_table(settings.need("DATABASE_URL", "the demo's CRM"), _HORIZON_DAYS)
        trained = train(
            table, TrainOptions(horizon_days=_HORIZON_DAYS, seed=seed, recipe="audited"), update
        )
        registry = open_registry(settings, signs=True)
        version = registry.publish(trained)
        registry.promote(version)
    data, judged = trained.manifest["data"], trained.manifest["metrics"]["calibrated"]
    screen.say(
        f"Model {version}: will a lead apply within {_HORIZON_DAYS} days? Trained on {data['rows']:,} moments of "
        f"{data['leads']:,} leads in {time.monotonic() - began:.1f} s; on the newest of them ROC-AUC "
        f"{judged['roc_auc']:.2f}, calibration error {judged['ece']:.3f}"
    )


def _consumer(
    stack: contextlib.ExitStack,
    screen: Screen,
    folder: Path,
    settings: Settings,
    ours: Mapping[str, str],
) -> Child:
    """`leadstream run` as a process of its own, ready."""
    began = time.monotonic()
    environment = {
        k: v for k, v in os.environ.items() if k not in _OWN and not k.startswith("LEADSTREAM_")
    }
    command = [sys.executable, "-m", "leadstream.cli.main", "run"]
    consumer = Child(
        command,
        folder,
        folder / "consumer.log",
        environ={**environment, **ours},
        ending=signal.SIGTERM,
    )
    stack.callback(consumer.end, signal.SIGTERM, _STOP_SECONDS)
    await_ready("The consumer", consumer, lambda: _get(settings, "readyz") is not None, seconds=60)
    screen.say(
        f"leadstream run: process {consumer.pid}, ready after {time.monotonic() - began:.1f} s, "
        f"http://127.0.0.1:{settings.http_port}"
    )
    return consumer


def _traffic(run: Run) -> tuple[Counted, list[str]]:
    """Send everything and see it through; the consumer's final numbers, and what went wrong with its end."""
    stop = threading.Event()
    with ThreadPoolExecutor(2, thread_name_prefix="demo") as pool, contextlib.ExitStack() as stack:
        stack.callback(stop.set)
        reading = pool.submit(run.subscriber.run, stop)
        sending = pool.submit(run.sender.run, run.options.rate, stop)
        counted = _through(run, reading, sending)
        trouble = []
        if not run.options.keep:
            code = run.consumer.end(signal.SIGTERM, _STOP_SECONDS)
            if code != 0:
                trouble.append(f"The consumer ended with exit code {code}, not 0.")
        run.subscriber.finish()
        reading.result()
    return counted, trouble


def _through(run: Run, reading: Future[None], sending: Future[None]) -> Counted:
    """Show how it goes until everything sent has been consumed; raises whatever stands in the way."""
    counted, progress, moved, shown = Counted(), (0, 0), time.monotonic(), 0
    sent, topic = run.sender.sent, run.settings.topics.lead_changes
    with run.screen.live() as show:
        while True:
            for thread in (reading, sending):
                if thread.done():
                    thread.result()
            if not run.consumer.alive():
                code = run.consumer.end(signal.SIGKILL, 10)
                raise failed(f"The consumer ended with exit code {code}", run.consumer.log)
            ended = sending.done()
            counted = _counted(run.settings) or counted
            fresh = run.subscriber.seen.predictions[shown:]
            shown += len(fresh)
            at = time.monotonic()
            show(Moment(at, run.sender.total, len(sent), counted, latencies(sent, fresh, topic)))
            if ended and counted.records >= len(sent):
                return counted
            if (len(sent), counted.records) != progress:
                progress, moved = (len(sent), counted.records), at
            elif at - moved > _STALL_SECONDS:
                raise failed(
                    f"Nothing has gone through the consumer for {_STALL_SECONDS:g} s",
                    run.consumer.log,
                )
            time.sleep(_TICK_SECONDS)


def _counted(settings: Settings) -> Counted | None:
    """The consumer's numbers; None where it does not answer just now."""
    page = _get(settings, "metrics")
    if page is None:
        return None
    fates, requests, reasons = Counter[str](), Counter[str](), Counter[str]()
    consumed = 0
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            match sample.name:
                case "leadstream_changes_consumed_total":
                    consumed = int(sample.value)
                case "leadstream_changes_total":
                    fates[sample.labels["fate"]] += int(sample.value)
                case "leadstream_requests_total":
                    requests[sample.labels["fate"]] += int(sample.value)
                case "leadstream_dead_letters_total":
                    reasons[sample.labels["reason"]] += int(sample.value)
    return Counted(consumed, fates, requests, reasons)


def _get(settings: Settings, page: str) -> str | None:
    """A page of the consumer, or None where it is not served with a good status."""
    try:
        with urllib.request.urlopen(
            f"http://127.0.0.1:{settings.http_port}/{page}", timeout=5
        ) as answer:
            return str(answer.read().decode())
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return None


def _report(run: Run, counted: Counted, trouble: list[str]) -> None:
    screen, sent, seen = run.screen, run.sender.sent, run.subscriber.seen
    topic = run.settings.topics.lead_changes
    screen.show(view.traffic(sent, seen, topic, run.sender.ended - run.sender.began))
    facts = calibration(sent, seen.predictions)
    screen.heading("5  Calibration: what was published beside the simulator's hidden truth")
    screen.show(view.calibration(facts, screen.block))
    screen.say(view.calibration_line(facts))
    screen.heading("6  Dead letters, by reason")
    screen.show(view.dead_letters(seen))
    screen.heading("7  The books")
    screen.show(view.accounting(counted))
    if trouble:
        screen.say("The books do not balance:")
        for sentence in trouble:
            screen.say(f"- {sentence}")
    else:
        screen.show(view.evidence(sent, seen, topic))
        screen.say("The books balance.")


def _triage(screen: Screen, settings: Settings) -> None:
    """What would become of the dead letters if they were replayed now: a rehearsal, which publishes nothing."""
    screen.heading("8  Triage")
    quiet = settings.model_copy(update={"log_level": LogLevel.ERROR})
    with screen.progress("rehearsing a replay of the dead letters"), TriageService(quiet) as triage:
        forecasts = triage.dry_run(triage.select(Filter()))
    screen.say(view.triage(forecasts))


def _further(screen: Screen, options: Options, ours: Mapping[str, str]) -> None:
    """How to look further, with commands to copy."""
    screen.heading("To look further")
    program = _program()
    if not options.keep:
        screen.say(f"{program} demo --keep")
        screen.say("keeps all of this running, and says which commands show more of it.")
        return
    screen.say("All of it runs on. In another terminal, here:")
    screen.console.print()
    for name, value in ours.items():
        print(f"export {name}={shlex.quote(value)}")  # by print: a line to copy must not be broken
    screen.console.print()
    address = f"http://127.0.0.1:{ours['LEADSTREAM_HTTP_PORT']}"
    for command in (
        f"{program} dead-letters groups",
        f"{program} dead-letters replay --reason LEAD_NOT_FOUND --dry-run",
        f"{program} models show",
        f"{program} rescore lead_{options.seed}_1 --wait",
        f"{program} doctor",
        f"curl {address}/metrics",
    ):
        screen.say(command)


def _program() -> str:
    """How this user starts Leadstream."""
    beside = Path(sys.executable).with_name("leadstream")
    if shutil.which("leadstream") or not beside.exists():
        return "leadstream"
    return os.path.relpath(beside)


def _keep(screen: Screen, consumer: Child) -> None:
    """Wait for Ctrl-C; raises StartError if the consumer ends before."""
    screen.console.print()
    with contextlib.suppress(KeyboardInterrupt):
        screen.say("Ctrl-C ends it and removes everything.")  # so from this line on
        while consumer.alive():
            time.sleep(_TICK_SECONDS)
        raise failed("The consumer ended", consumer.log)
