"""The X Education leads end to end: trained on the older 80 %, judged by what a subscriber reads of
the newest 20 %.

    python -m benchmarks.xeducation [--data ../shared/data/xeducation_leads.csv] [--json]

A real broker, `leadstream run` as a process, `leadstream import` as the producer, a read_committed
subscriber. Exit code 1 where a bar is missed or a lead is not answered exactly once.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition
from confluent_kafka.admin import AdminClient
from rich.console import Console
from rich.table import Table
from sklearn.metrics import roc_auc_score

from leadstream.errors import UserError
from leadstream.kafka.config import client_config
from leadstream.kafka.topics import VARIABLES, Topics
from leadstream.local.broker import local_broker
from leadstream.local.process import Child, scratch
from leadstream.settings import load_settings
from models.evaluate import expected_calibration_error
from models.registry.signing import make_key
from models.registry.versions import open_registry
from models.train.training import TrainOptions, train
from producer.importer import read_table
from producer.mapping import load_mapping
from schemas.codec import Reader

MAPPING = Path(__file__).parents[1] / "producer" / "mappings" / "xeducation.toml"
DATA = Path(__file__).parents[2] / "shared" / "data" / "xeducation_leads.csv"
OLDER, NEWER = 0.8, 0.2
BARS = {"ROC-AUC": 0.86, "Brier": 0.15, "ECE (15 bins)": 0.06}
# The forest as audited on the same split, its own columns: ROC-AUC, Brier, ECE.
REFERENCES = {
    "reference: raw forest": (0.898, 0.129, 0.092),
    "reference: the audit's formula": (0.898, 0.171, 0.217),
    "reference: isotonic": (0.898, 0.119, 0.026),
}
ANSWER_SECONDS = 120.0
_OWN, _KAFKA = ("LEADSTREAM_", "SCHEMA_REGISTRY_URL", "DATABASE_URL"), "LEADSTREAM_KAFKA_"
LEADSTREAM = (sys.executable, "-m", "leadstream.cli.main")


def main() -> int:
    """Run the benchmark and print its table; returns the exit code."""
    parser = argparse.ArgumentParser(
        description="The X Education leads, end to end on a real broker."
    )
    parser.add_argument("--data", type=Path, default=DATA, help="xeducation_leads.csv")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    say = Console(stderr=True, highlight=False).print
    if not arguments.data.exists():
        say(f"{arguments.data} is not there: give --data")
        return 1
    try:
        result = measure(arguments.data, say)
    except UserError as error:
        say(str(error))
        return 1
    if arguments.json:
        print(json.dumps(result, indent=2))
    else:
        _print(result)
    return 0 if result["passed"] else 1


def measure(data: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Train, serve, publish and read back; returns the figures of the table."""
    mapping = load_mapping(MAPPING)
    older, refused = read_table(data, mapping, oldest=OLDER)
    newer, _ = read_table(data, mapping, newest=NEWER)
    if refused:
        raise UserError(
            f"{data}: {len(refused)} rows were refused, the first in line {refused[0].line}"
        )
    outcomes = dict(zip(newer["lead_id"], newer["converted"], strict=True))
    with scratch("xeducation") as folder, local_broker(say=say) as broker:
        if not broker.transactions:
            raise UserError(f"this needs a broker with transactions: {broker.limits}")
        say(f"training on the older {len(older):,} leads")
        store = folder / "store"
        environ = _environ(broker.bootstrap, store)
        make_key(Path(environ["LEADSTREAM_MODEL_SIGNING_KEY"]))
        registry = open_registry(load_settings(environ, env_file=None), signs=True)
        registry.promote(registry.publish(train(older, TrainOptions())))
        _leadstream(environ, folder, "topics", "create")
        service = Child(
            [*LEADSTREAM, "run"], folder, folder / "run.log", environ=environ, ending=signal.SIGTERM
        )
        try:
            say(f"publishing the newest {len(newer):,} leads")
            began = time.monotonic()
            options = ("--mapping", str(MAPPING), "--newest", str(NEWER))
            _leadstream(environ, folder, "import", str(data.resolve()), *options)
            _await(environ, set(outcomes), service)
            seconds = time.monotonic() - began
        finally:
            code = service.end(signal.SIGTERM, seconds=40)
        say(f"the consumer ended with exit code {code}")
        answers = _everything(environ)
        if broker.kind == "given":
            _remove_topics(environ)
    result = _evaluate(answers, outcomes) | {
        "seconds": round(seconds, 1),
        "consumer_exit_code": code,
    }
    return result | {"passed": result["passed"] and code == 0}


def _leadstream(environ: dict[str, str], folder: Path, *arguments: str) -> None:
    done = subprocess.run(
        [*LEADSTREAM, *arguments],
        env=environ,
        cwd=folder,
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise UserError(
            f"`leadstream {arguments[0]}` ended with exit code {done.returncode}: "
            f"{done.stderr.strip()}"
        )


def _environ(bootstrap: str, store: Path) -> dict[str, str]:
    """Return settings of a separate run, which shares no topic and no group."""
    own = uuid.uuid4().hex[:8]
    topics = {
        variable: f"{getattr(Topics(), field)}.bench-{own}" for variable, field in VARIABLES.items()
    }
    return {
        **{
            name: value
            for name, value in os.environ.items()
            if not name.startswith(_OWN) or name.startswith(_KAFKA)
        },
        **topics,
        "KAFKA_BOOTSTRAP_SERVERS": bootstrap,
        "MODEL_STORE": str(store),
        "LEADSTREAM_MODEL_SIGNING_KEY": str(store.with_name("model-key.pem")),
        "LEADSTREAM_GROUP_ID": f"bench-{own}",
        "LEADSTREAM_HTTP_PORT": "0",
    }


class _Subscriber:
    """Reads the predictions topic from its beginning, committed records only."""

    def __init__(self, environ: dict[str, str]) -> None:
        settings = load_settings(environ, env_file=None)
        self._reader = Reader("LeadPrediction")
        config = {"group.id": "unused", "enable.auto.commit": False, "enable.partition.eof": True}
        self._consumer = Consumer(
            {**client_config(settings), **config, "isolation.level": "read_committed"}
        )
        topic = settings.topics.lead_predictions
        partitions = self._consumer.list_topics(topic, timeout=10).topics[topic].partitions
        self._open = set(partitions)
        self._consumer.assign(
            [TopicPartition(topic, number, OFFSET_BEGINNING) for number in partitions]
        )

    def __enter__(self) -> "_Subscriber":
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()

    def read(self, seconds: float) -> list[dict[str, Any]]:
        """What arrives within this time."""
        records = []
        for message in self._consumer.consume(1000, seconds):
            error = message.error()
            if error is not None and error.code() == KafkaError._PARTITION_EOF:
                self._open.discard(message.partition())
            elif error is not None:
                raise UserError(f"the predictions cannot be read: {error.str()}")
            elif (value := message.value()) is not None:
                records.append(self._reader.decode(value))
        return records

    @property
    def at_end(self) -> bool:
        """Whether the end of every partition was reached at least once."""
        return not self._open


def _await(environ: dict[str, str], expected: set[str], service: Child) -> None:
    """Wait until every lead has an answer, or the time is up."""
    missing = set(expected)
    deadline = time.monotonic() + ANSWER_SECONDS
    with _Subscriber(environ) as subscriber:
        while missing and time.monotonic() < deadline:
            missing -= {answer["lead_id"] for answer in subscriber.read(0.2)}
            if not service.alive():
                raise UserError(
                    f"the consumer ended by itself; its log ends:\n{service.log_tail()}"
                )


def _everything(environ: dict[str, str]) -> list[dict[str, Any]]:
    """Every prediction in the topic, read after the consumer has ended: a second answer of a lead
    is among them.
    """
    answers: list[dict[str, Any]] = []
    deadline = time.monotonic() + ANSWER_SECONDS
    with _Subscriber(environ) as subscriber:
        while not subscriber.at_end:
            answers += subscriber.read(0.5)
            if time.monotonic() > deadline:
                raise UserError("the predictions topic could not be read to its end")
    return answers


def _remove_topics(environ: dict[str, str]) -> None:
    settings = load_settings(environ, env_file=None)
    names = [getattr(settings.topics, field) for field in VARIABLES.values()]
    admin = AdminClient(client_config(settings))
    for future in admin.delete_topics(names, request_timeout=10).values():
        future.result()


def _evaluate(answers: list[dict[str, Any]], outcomes: dict[str, bool]) -> dict[str, Any]:
    ids = [answer["lead_id"] for answer in answers]
    once = len(ids) == len(set(ids)) and set(ids) == set(outcomes)
    labels = np.array([outcomes[i] for i in ids if i in outcomes], dtype=np.bool_)
    known = [answer for answer in answers if answer["lead_id"] in outcomes]
    if labels.all() or not labels.any():
        raise UserError(
            f"only {len(known)} of {len(outcomes)} leads were answered: nothing can be judged"
        )
    rows = {}
    for name, column in (
        ("leadstream", "probability"),
        ("leadstream, before calibration", "raw_score"),
    ):
        stated = np.array([answer[column] for answer in known], dtype=np.float64)
        figures = (
            float(roc_auc_score(labels, stated)),
            float(np.mean((stated - labels) ** 2)),
            expected_calibration_error(stated, labels),
        )
        rows[name] = dict(zip(BARS, figures, strict=True))
    auc, brier, ece = rows["leadstream"].values()
    bars = auc >= BARS["ROC-AUC"] and brier <= BARS["Brier"] and ece <= BARS["ECE (15 bins)"]
    return {
        "leads": len(outcomes),
        "answers": len(ids),
        "exactly_once": once,
        "rows": rows
        | {name: dict(zip(BARS, figures, strict=True)) for name, figures in REFERENCES.items()},
        "passed": bars and once,
    }


def _print(result: dict[str, Any]) -> None:
    table = Table(title=f"X Education, the newest {result['leads']:,} leads")
    table.add_column("")
    for name in BARS:
        table.add_column(name, justify="right")
    for name, figures in result["rows"].items():
        table.add_row(name, *(f"{figures[bar]:.3f}" for bar in BARS))
    table.add_row("bar", "≥ 0.860", "≤ 0.150", "≤ 0.060")
    console = Console(highlight=False)
    console.print(table)
    console.print(f"every lead answered exactly once: {'yes' if result['exactly_once'] else 'no'}")
    console.print(
        f"{result['answers']:,} answers, {result['seconds']} s from the start of the import "
        f"to the last one"
    )
    console.print("all bars met" if result["passed"] else "a bar was missed")


if __name__ == "__main__":
    sys.exit(main())
