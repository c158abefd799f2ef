"""Bytewax, run by `python -m bytewax.run`: `rows`, with `map`, or `batches`, with `flat_map_batch`.

Its documentation: performance, "Batching large-overhead operations", and the batch size of a
source. Its recovery is at least once for this sink, and is left out: it would only slow it down.
"""

import bytewax.operators as op
from bytewax.connectors.kafka import KafkaSink, KafkaSinkMessage, KafkaSource, KafkaSourceMessage
from bytewax.dataflow import Dataflow

from benchmarks.peers.scoring import Arrived, Scorer
from leadstream.settings import load_settings

# The sink flushes whatever a batch of the source became: of rows at 5 ms each, a large one would be
# seen too late.
ROWS_A_BATCH, EVENTS_A_BATCH = 100, 10_000


def flow(form: str) -> Dataflow:
    """The dataflow in one of its forms, as `bytewax.run module:flow('batches')` asks for it."""
    settings = load_settings(env_file=None)
    scorer = Scorer(settings)
    brokers = (settings.kafka_bootstrap_servers or "").split(",")
    batches = form == "batches"

    def score_batch(messages: list[KafkaSourceMessage]) -> list[KafkaSinkMessage]:
        return [
            KafkaSinkMessage(key, value)
            for key, value in scorer.score([_arrived(one) for one in messages])
        ]

    def score_row(message: KafkaSourceMessage) -> KafkaSinkMessage:
        return KafkaSinkMessage(*scorer.score([_arrived(message)])[0])

    dataflow = Dataflow("peers")
    source = KafkaSource(
        brokers,
        [settings.topics.lead_changes],
        batch_size=EVENTS_A_BATCH if batches else ROWS_A_BATCH,
    )
    changes = op.input("changes", dataflow, source)
    predictions = (
        op.flat_map_batch("score", changes, score_batch)
        if batches
        else op.map("score", changes, score_row)
    )
    op.output("predictions", predictions, KafkaSink(brokers, settings.topics.lead_predictions))
    return dataflow


def _arrived(message: KafkaSourceMessage) -> Arrived:
    return Arrived(message.value, message.topic, message.partition, message.offset)
