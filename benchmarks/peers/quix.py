"""Quix Streams, row by row and exactly once: one StreamingDataFrame that applies the model and goes
to a topic.

Its documentation: processing guarantees ("exactly-once"), checkpointing (`commit_every`), and
`message_context` for the place of a message. Its windows collect many messages, but those of one
key: leads are never scored together.
"""

import logging

from quixstreams import Application, message_context

from benchmarks.peers.scoring import Arrived, Scorer
from leadstream.settings import load_settings

# A checkpoint waits for the brokers for some milliseconds, a score takes five: this many cost one
# in a hundred.
EVENTS_A_CHECKPOINT = 100


def main() -> None:
    """Run until killed."""
    settings = load_settings(env_file=None)
    scorer = Scorer(settings)
    app = Application(
        broker_address=settings.kafka_bootstrap_servers,
        consumer_group=settings.group_id,
        auto_offset_reset="earliest",
        processing_guarantee="exactly-once",
        commit_every=EVENTS_A_CHECKPOINT,
        auto_create_topics=False,
        loglevel=logging.WARNING,
    )
    changes = app.topic(settings.topics.lead_changes, value_deserializer="bytes")
    predictions = app.topic(settings.topics.lead_predictions, value_serializer="bytes")

    def score(value: bytes) -> bytes:
        place = message_context()
        [(_, prediction)] = scorer.score(
            [Arrived(value, place.topic, place.partition, place.offset)]
        )
        return prediction

    # The key of a message, the lead's id, stays with it.
    app.dataframe(changes).apply(score).to_topic(predictions)
    app.run()


if __name__ == "__main__":
    main()
