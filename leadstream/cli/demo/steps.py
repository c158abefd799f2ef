"""The steps of the demo: environment, CRM and model, consumer, changes, accounting."""

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
from leadstream.cli.demo import lesson
from leadstream.cli.demo.accounting import ConsumerCounts, calibration, latencies, problems
from leadstream.cli.demo.display import Screen, TrafficSnapshot
from leadstream.cli.demo.environment import demo_environment
from leadstream.cli.demo.traffic import DemoSubscriber, ParcelSender
from leadstream.local.process import Child, await_ready, free_ports, scratch, start_error
from leadstream.settings import LogLevel, Settings
from models.registry.versions import open_registry
from models.train.training import TrainOptions, train
from producer.crm import connected, create_schema, fill, training_table
from producer.simulator import DAY_MS, SimulatedCrm

_YEAR_DAYS = 365
_HORIZON_DAYS = 30
_MIN_LEADS = 4_000
_TICK_SECONDS = 0.25
_STALL_SECONDS = 60.0
_STOP_SECONDS = 30.0
_OWN = ("KAFKA_BOOTSTRAP_SERVERS", "SCHEMA_REGISTRY_URL", "DATABASE_URL", "MODEL_STORE")


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """The options: number of records, rate (records a second), seed of the CRM, and `keep`."""

    changes: int
    bad: int
    rate: int
    seed: int
    keep: bool


@dataclass(frozen=True, slots=True)
class DemoRun:
    """The parts of a running demo."""

    screen: Screen
    options: DemoOptions
    settings: Settings
    consumer: Child
    sender: ParcelSender
    subscriber: DemoSubscriber


def demo(options: DemoOptions) -> int:
    """Run the demo; return 0 if the accounting balances, else 1. Interruptions clean up, too."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    screen = Screen()
    screen.console.print("Leadstream on this machine: lead changes in, calibrated predictions out.")
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(scratch("demo"))
        screen.heading("1  Broker and database")
        environment, settings = demo_environment(stack, screen, folder)
        screen.heading("2  A CRM and its model")
        crm, since, now = _crm(screen, settings, options)
        _model(screen, settings, options.seed)
        screen.heading("3  The consumer")
        consumer = _consumer(stack, screen, folder, settings, environment)
        no_lesson = lesson.why_no_lesson(options.changes)
        writer, port = (None, 0) if no_lesson else _writer(stack, folder, environment)
        screen.heading("4  Lead changes")
        sender = ParcelSender(
            settings, crm, since=since, now=now, changes=options.changes, bad=options.bad
        )
        run = DemoRun(screen, options, settings, consumer, sender, DemoSubscriber(settings))
        counted, problems_found = _traffic(run)
        topics = (settings.topics.lead_changes, settings.topics.rescore_requests)
        problems_found += problems(sender.sent, run.subscriber.seen, counted, topics)
        _report(run, counted, problems_found)
        _print_dry_run(screen, settings)
        screen.heading("9  A model of the history that was written meanwhile")
        if writer is None:
            screen.say(no_lesson)
        else:
            changes = sum(topic == settings.topics.lead_changes for topic, _, _ in sender.sent)
            written = {
                settings.topics.lead_changes: changes,
                settings.topics.lead_outcomes: sender.outcomes,
            }
            lesson.await_written(writer, port, written)
            lesson.show_lesson(
                screen,
                settings,
                crm,
                since=since,
                now=now,
                horizon_days=_HORIZON_DAYS,
                seed=options.seed,
            )
        _print_next_steps(screen, options, environment)
        if options.keep:
            _wait_for_ctrl_c(screen, consumer)
        screen.console.print()
    return 1 if problems_found else 0


def _crm(screen: Screen, settings: Settings, options: DemoOptions) -> tuple[SimulatedCrm, int, int]:
    """Return the CRM with its history in Postgres, the end of that history, and now (ms UTC)."""
    started, now = time.monotonic(), time.time_ns() // 1_000_000
    with screen.progress("making a CRM") as update:
        update("making a CRM", 0.0)
        crm = SimulatedCrm(
            options.seed,
            start=now - _YEAR_DAYS * DAY_MS,
            leads=max(_MIN_LEADS, options.changes),
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
        f"CRM: {filled.people:,} leads, {filled.changes:,} changes and {filled.applications:,} "
        f"applications in Postgres, in {time.monotonic() - started:.1f} s"
    )
    return crm, since, now


def _model(screen: Screen, settings: Settings, seed: int) -> None:
    """Train on that history, publish, and promote."""
    started = time.monotonic()
    with screen.progress("reading the history") as update:
        update("reading the history", 0.0)
        table = training_table(settings.need("DATABASE_URL", "the demo's CRM"), _HORIZON_DAYS)
        trained = train(
            table, TrainOptions(horizon_days=_HORIZON_DAYS, seed=seed, recipe="audited"), update
        )
        registry = open_registry(settings, signs=True)
        version = registry.publish(trained)
        registry.promote(version)
    data, metrics = trained.manifest["data"], trained.manifest["metrics"]["calibrated"]
    screen.say(
        f"Model {version}: will a lead apply within {_HORIZON_DAYS} days? Trained on "
        f"{data['rows']:,} states of {data['leads']:,} leads "
        f"in {time.monotonic() - started:.1f} s; "
        f"on the newest states ROC-AUC {metrics['roc_auc']:.2f}, "
        f"calibration error {metrics['ece']:.3f}"
    )


def _consumer(
    stack: contextlib.ExitStack,
    screen: Screen,
    folder: Path,
    settings: Settings,
    variables: Mapping[str, str],
) -> Child:
    """Start `leadstream run` as a process; return it when it is ready."""
    started = time.monotonic()
    consumer = _service(stack, folder, "consumer", ("run",), variables)
    await_ready("The consumer", consumer, lambda: _get(settings, "readyz") is not None, seconds=60)
    screen.say(
        f"leadstream run: process {consumer.pid}, ready after {time.monotonic() - started:.1f} s, "
        f"http://127.0.0.1:{settings.http_port}"
    )
    return consumer


def _writer(
    stack: contextlib.ExitStack, folder: Path, variables: Mapping[str, str]
) -> tuple[Child, int]:
    """Start `leadstream history write`; return it and its port."""
    [port] = free_ports(1)
    own = {**variables, "LEADSTREAM_HTTP_PORT": str(port)}
    writer = _service(stack, folder, "writer", ("history", "write"), own)
    return writer, port


def _service(
    stack: contextlib.ExitStack,
    folder: Path,
    name: str,
    words: tuple[str, ...],
    variables: Mapping[str, str],
) -> Child:
    """Start a verb as a process, which ends with the demo."""
    environment = {
        k: v for k, v in os.environ.items() if k not in _OWN and not k.startswith("LEADSTREAM_")
    }
    child = Child(
        [sys.executable, "-m", "leadstream.cli.main", *words],
        folder,
        folder / f"{name}.log",
        environ={**environment, **variables},
        ending=signal.SIGTERM,
    )
    stack.callback(child.end, signal.SIGTERM, _STOP_SECONDS)
    return child


def _traffic(run: DemoRun) -> tuple[ConsumerCounts, list[str]]:
    """Send everything and wait; return the final counts of the consumer, and its problems."""
    stop = threading.Event()
    with ThreadPoolExecutor(2, thread_name_prefix="demo") as pool, contextlib.ExitStack() as stack:
        stack.callback(stop.set)
        reading = pool.submit(run.subscriber.run, stop)
        sending = pool.submit(run.sender.run, run.options.rate, stop)
        counted = _await_all(run, reading, sending)
        problems_found = []
        if not run.options.keep:
            code = run.consumer.end(signal.SIGTERM, _STOP_SECONDS)
            if code != 0:
                problems_found.append(f"The consumer ended with exit code {code}, not 0.")
        run.subscriber.finish()
        reading.result()
    return counted, problems_found


def _await_all(run: DemoRun, reading: Future[None], sending: Future[None]) -> ConsumerCounts:
    """Show the progress until everything is consumed. Raises the error of a part that fails."""
    counted, progress, moved_at, displayed = ConsumerCounts(), (0, 0), time.monotonic(), 0
    sent, topic = run.sender.sent, run.settings.topics.lead_changes
    with run.screen.live() as show:
        while True:
            for thread in (reading, sending):
                if thread.done():
                    thread.result()
            if not run.consumer.alive():
                code = run.consumer.end(signal.SIGKILL, 10)
                raise start_error(f"The consumer ended with exit code {code}", run.consumer.log)
            finished_sending = sending.done()
            counted = _read_counts(run.settings) or counted
            fresh = run.subscriber.seen.predictions[displayed:]
            displayed += len(fresh)
            at = time.monotonic()
            show(
                TrafficSnapshot(
                    at, run.sender.total, len(sent), counted, latencies(sent, fresh, topic)
                )
            )
            if finished_sending and counted.records >= len(sent):
                return counted
            if (len(sent), counted.records) != progress:
                progress, moved_at = (len(sent), counted.records), at
            elif at - moved_at > _STALL_SECONDS:
                raise start_error(
                    f"The consumer has processed nothing for {_STALL_SECONDS:g} s",
                    run.consumer.log,
                )
            time.sleep(_TICK_SECONDS)


def _read_counts(settings: Settings) -> ConsumerCounts | None:
    """Return the counts of the consumer; None while it does not answer."""
    page = _get(settings, "metrics")
    if page is None:
        return None
    dispositions, requests, reasons = Counter[str](), Counter[str](), Counter[str]()
    consumed = 0
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            match sample.name:
                case "leadstream_changes_consumed_total":
                    consumed = int(sample.value)
                case "leadstream_changes_total":
                    dispositions[sample.labels["fate"]] += int(sample.value)
                case "leadstream_requests_total":
                    requests[sample.labels["fate"]] += int(sample.value)
                case "leadstream_dead_letters_total":
                    reasons[sample.labels["reason"]] += int(sample.value)
    return ConsumerCounts(consumed, dispositions, requests, reasons)


def _get(settings: Settings, page: str) -> str | None:
    """Return a page of the consumer, or None without a good status."""
    try:
        with urllib.request.urlopen(
            f"http://127.0.0.1:{settings.http_port}/{page}", timeout=5
        ) as answer:
            return str(answer.read().decode())
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return None


def _report(run: DemoRun, counted: ConsumerCounts, problems_found: list[str]) -> None:
    screen, sent, seen = run.screen, run.sender.sent, run.subscriber.seen
    topic = run.settings.topics.lead_changes
    screen.show(view.traffic(sent, seen, topic, run.sender.ended - run.sender.began))
    result = calibration(sent, seen.predictions)
    screen.heading("5  Calibration: published probabilities and the hidden truth of the simulator")
    screen.show(view.calibration(result, screen.block))
    screen.say(view.calibration_line(result))
    screen.heading("6  Dead letters, by reason")
    screen.show(view.dead_letters(seen))
    screen.heading("7  Accounting")
    screen.show(view.accounting(counted))
    if problems_found:
        screen.say("The accounting does not balance:")
        for sentence in problems_found:
            screen.say(f"- {sentence}")
    else:
        screen.show(view.evidence(sent, seen, topic))
        screen.say("The accounting balances.")


def _print_dry_run(screen: Screen, settings: Settings) -> None:
    """Print a dry run of a replay of the dead letters."""
    screen.heading("8  Triage")
    quiet = settings.model_copy(update={"log_level": LogLevel.ERROR})
    with screen.progress("dry run of a replay of the dead letters"), TriageService(quiet) as triage:
        groups = triage.dry_run(triage.select(Filter()))
    screen.say(view.triage(groups))


def _print_next_steps(screen: Screen, options: DemoOptions, variables: Mapping[str, str]) -> None:
    """Print commands to continue with."""
    screen.heading("To look further")
    program = _program()
    if not options.keep:
        screen.say(f"{program} demo --keep")
        screen.say("keeps all of this running, and prints commands that show more.")
        return
    screen.say("Everything keeps running. In another terminal, in this folder:")
    screen.console.print()
    for name, value in variables.items():
        print(f"export {name}={shlex.quote(value)}")  # not by rich, which would wrap a line to copy
    screen.console.print()
    address = f"http://127.0.0.1:{variables['LEADSTREAM_HTTP_PORT']}"
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
    """Return how this user starts Leadstream."""
    program = Path(sys.executable).with_name("leadstream")
    if shutil.which("leadstream") or not program.exists():
        return "leadstream"
    return os.path.relpath(program)


def _wait_for_ctrl_c(screen: Screen, consumer: Child) -> None:
    """Wait for Ctrl-C. Raises StartError if the consumer ends first."""
    screen.console.print()
    with contextlib.suppress(KeyboardInterrupt):
        screen.say("Ctrl-C ends the demo and removes everything.")  # from this line on
        while consumer.alive():
            time.sleep(_TICK_SECONDS)
        raise start_error("The consumer ended", consumer.log)
