"""The dashboard looked at: a consumer under load, a real Prometheus, and every query of every
panel: `make dashboard`.

A simulated CRM sends changes for two minutes, with bad records among them; Postgres is away for a
while, and a second process joins. Each query must find something; what it found is drawn into
docs/dashboard.png.
"""

import argparse
import contextlib
import json
import math
import os
import re
import signal
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import yaml  # type: ignore[import-untyped]

from deploy.dashboard import ROWS, Panel, panels
from deploy.picture import Series, draw
from leadstream.cli.topics import create_missing
from leadstream.local.broker import local_broker
from leadstream.local.postgres import PostgresProcess, local_server
from leadstream.local.process import Child, await_ready, free_ports, scratch
from leadstream.settings import Settings, load_settings
from models.registry.signing import key_path, make_key
from models.registry.versions import open_registry
from models.train.training import TrainOptions, train
from producer.crm import (
    connected,
    create_schema,
    fill,
    training_table,
    write_applications,
    write_changes,
)
from producer.live import bad_for, paced, send_changes
from producer.migrate import migrate
from producer.publish import publishing
from producer.simulator import DAY_MS, Application, Shares, SimulatedCrm

PICTURE = Path(__file__).parents[1] / "docs" / "dashboard.png"
HORIZON_DAYS = 30
INTERVAL = (
    "15s"  # what Grafana makes of $__rate_interval when it scrapes each second and looks at minutes
)
_SHARES = Shares(
    late=0.01, repeated=0.01, without_state=0.05, deleted=0.001, tombstone=0.001, loop=0.005
)
_OWN = ("KAFKA_", "LEADSTREAM_", "SCHEMA_REGISTRY_URL", "DATABASE_URL", "MODEL_STORE")


Event = tuple[
    float, str | None, Callable[[], None]
]  # when, in seconds of the load, what to say of it, and what to do
NOTHING = Series("nothing", [0.0], [0.0])


@dataclass(frozen=True, slots=True)
class LoadProfile:
    """How many changes, how many a second, and the share of bad records among them."""

    changes: int
    rate: int
    bad_share: float


class Prometheus:
    """A Prometheus as docker-compose.yml configures it, but for where its targets are and how often
    it asks.
    """

    def __init__(self, folder: Path, program: Path, targets: dict[str, int]) -> None:
        self.port = free_ports(1)[0]
        shipped = Path(__file__).parent / "prometheus"
        settings = yaml.safe_load((shipped / "prometheus.yml").read_text("utf-8"))
        settings["global"]["scrape_interval"] = "1s"
        settings["rule_files"] = [str(shipped / "alerts.yml")]
        for job in settings["scrape_configs"]:
            [static] = job["static_configs"]
            names = [target.split(":")[0] for target in static["targets"]]
            static["targets"] = [
                f"127.0.0.1:{port}"
                for name, port in targets.items()
                if any(name.startswith(known) for known in names)
            ]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(settings))
        arguments: list[str | Path] = [
            program,
            f"--config.file={folder}/prometheus.yml",
            f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address=127.0.0.1:{self.port}",
        ]
        self.child = Child(arguments, folder, folder / "prometheus.log", ending=signal.SIGTERM)
        await_ready("Prometheus", self.child, self._responds, seconds=30)

    def range(self, query: str, began: float, ended: float) -> list[Series]:
        """The series of a query between two moments (seconds since 1970), each second."""
        words = {
            "query": query.replace("$__rate_interval", INTERVAL),
            "start": began,
            "end": ended,
            "step": 1,
        }
        found = self._get(f"api/v1/query_range?{urlencode(words)}")["data"]["result"]
        return [_series(json.dumps(one["metric"]), one["values"], began) for one in found]

    def _responds(self) -> bool:
        try:
            self._get("api/v1/status/buildinfo")
        except OSError:
            return False
        return True

    def _get(self, page: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{page}", timeout=30) as answer:
            return json.load(answer)


def look(load: LoadProfile, program: Path) -> dict[str, list[Series]]:
    """What each panel shows of that load, by its title."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(scratch("look"))
        broker = stack.enter_context(local_broker("kafka", say=_say))
        postgres = stack.enter_context(local_server(_say))
        environment = {
            "KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap,
            "DATABASE_URL": postgres.url,
            "MODEL_STORE": str(folder / "models"),
            "LEADSTREAM_MODEL_SIGNING_KEY": str(folder / "model-key.pem"),
            "LEADSTREAM_LOG_FORMAT": "json",
        }
        settings = load_settings(environment, env_file=None)
        create_missing(settings, partitions=4)
        now = time.time_ns() // 1_000_000
        crm, since = _crm(settings, load, now)
        ports = dict(zip(("consumer", "consumer-2", "relay", "follow"), free_ports(4), strict=True))
        start = _starter(stack, folder, environment, ports)
        began = time.time()
        prometheus = Prometheus(folder, program, ports)
        stack.callback(prometheus.child.end, signal.SIGTERM, 10)
        for name in ("consumer", "relay", "follow"):
            start(name)
        _say(f"{load.changes:,} changes at {load.rate} a second")
        events = _events(postgres, start, load.changes / load.rate) + _outcomes(
            postgres.url, crm, load, since, now
        )
        _send(settings, crm, load, since, now, sorted(events, key=lambda event: event[0]))
        time.sleep(5)  # the last readings
        return {
            panel.title: _panel_series(prometheus, panel, began, time.time()) for panel in panels()
        }


def _crm(settings: Settings, load: LoadProfile, now: int) -> tuple[SimulatedCrm, int]:
    """A CRM with its past in Postgres, a champion and a challenger that learnt from it, and the
    load's first moment.
    """
    crm = SimulatedCrm(1, start=now - 365 * DAY_MS, leads=20_000, horizon_days=HORIZON_DAYS)
    since = crm.moment(-load.changes, until=now)
    url = settings.need("DATABASE_URL", "the CRM")
    with connected(url) as conn:
        create_schema(conn)
        fill(conn, crm, since)
    make_key(key_path(settings))
    models, table = open_registry(settings, signs=True), training_table(url, HORIZON_DAYS)
    for alias, recipe in (("champion", "audited"), ("challenger", "forest")):
        _say(f"training the {alias}")
        models.promote(
            models.publish(train(table, TrainOptions(horizon_days=HORIZON_DAYS, recipe=recipe))),
            alias,
        )
    with connected(url) as conn:
        write_changes(conn, crm.changes(since, now))
    migrate(url)
    return crm, since


def _starter(
    stack: contextlib.ExitStack, folder: Path, ours: dict[str, str], ports: dict[str, int]
) -> Callable[[str], None]:
    theirs = {name: value for name, value in os.environ.items() if not name.startswith(_OWN)}

    def start(name: str) -> None:
        verb = "run" if name.startswith("consumer") else name
        environment = {**theirs, **ours, "LEADSTREAM_HTTP_PORT": str(ports[name])}
        command = [sys.executable, "-m", "leadstream.cli.main", verb]
        child = Child(
            command, folder, folder / f"{name}.log", environ=environment, ending=signal.SIGTERM
        )
        stack.callback(child.end, signal.SIGTERM, 30)
        await_ready(name, child, lambda: _ready(ports[name]), seconds=60)
        _say(f"{name} is ready")

    return start


def _events(postgres: PostgresProcess, start: Callable[[str], None], seconds: float) -> list[Event]:
    """What happens meanwhile: after a third Postgres is away for eight seconds, after two a second
    process joins.
    """
    return [
        (seconds / 3, "Postgres is stopped", postgres.stop),
        (seconds / 3 + 8, "Postgres is started", postgres.start),
        (seconds * 2 / 3, "a second consumer is started", lambda: start("consumer-2")),
    ]


def _outcomes(url: str, crm: SimulatedCrm, load: LoadProfile, since: int, now: int) -> list[Event]:
    """The applications of the days that the load has come to, every few seconds, but for when
    Postgres is away.
    """
    seconds, events, written = (
        load.changes / load.rate,
        list[Event](),
        since - HORIZON_DAYS * DAY_MS,
    )
    for at in range(0, int(seconds), 5):
        if not seconds / 3 - 1 < at < seconds / 3 + 12:
            until = crm.moment(min(-1, load.rate * at - load.changes), until=now)
            events.append((at, None, partial(_apply, url, crm.applications(written, until))))
            written = until
    return events


def _apply(url: str, applications: list[Application]) -> None:
    with connected(url) as conn:
        write_applications(conn, applications)


def _send(
    settings: Settings,
    crm: SimulatedCrm,
    load: LoadProfile,
    since: int,
    now: int,
    events: list[Event],
) -> None:
    began = time.monotonic()
    with publishing(settings) as publisher:

        def advance(_changes: int) -> None:
            while events and events[0][0] <= time.monotonic() - began:
                _, what, act = events.pop(0)
                if what:
                    _say(what)
                threading.Thread(target=act, name="event").start()

        def asked() -> Iterator[Any]:
            for number, change in enumerate(crm.deliveries(_SHARES, since, now)):
                if number % 500 == 0:
                    name = f"look-{number}"
                    request = {
                        "request_id": name,
                        "lead_ids": [change.lead_id, "nobody"],
                        "requested_by": None,
                    }
                    publisher.send(
                        "RescoreRequest", settings.topics.rescore_requests, name, request
                    )
                yield change

        send_changes(
            publisher,
            settings.topics,
            paced(asked(), load.rate),
            bad=bad_for(publisher, settings.topics, 1, now),
            bad_share=load.bad_share,
            seed=1,
            advance=advance,
        )


def _panel_series(prometheus: Prometheus, panel: Panel, began: float, ended: float) -> list[Series]:
    displayed = []
    for query, legend in panel.queries:
        found = [one for one in prometheus.range(query, began, ended) if one.values]
        if not found:
            _say(f"panel {panel.title!r}: nothing is found by {query}")
        displayed += [
            Series(_legend(legend, one.legend), one.seconds, one.values) for one in found
        ] or [NOTHING]
    return displayed


def _series(labels: str, samples: list[list[Any]], began: float) -> Series:
    pairs = [(at - began, float(value)) for at, value in samples if not math.isnan(float(value))]
    return Series(labels, [at for at, _ in pairs], [value for _, value in pairs])


def _legend(template: str, labels: str) -> str:
    found: dict[str, str] = json.loads(labels)
    return re.sub(r"\{\{(\w+)\}\}", lambda match: found.get(match[1], ""), template)


def _ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr)


def main() -> None:
    """Look, and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--changes", type=int, default=20_000)
    parser.add_argument("--rate", type=int, default=160)
    parser.add_argument(
        "--prometheus", type=Path, default=Path(".tools/bin/prometheus"), metavar="PROGRAM"
    )
    given = parser.parse_args()
    displayed = look(
        LoadProfile(given.changes, given.rate, bad_share=0.02), given.prometheus.resolve()
    )
    empty = [title for title, series in displayed.items() if NOTHING in series]
    if empty:
        sys.exit(f"panels with a query that found nothing: {', '.join(empty)}")
    draw(ROWS, displayed, PICTURE)
    queries = sum(len(panel.queries) for panel in panels())
    _say(
        f"{queries} queries of {len(displayed)} panels found something, and are drawn in {PICTURE}"
    )


if __name__ == "__main__":
    main()
