"""The readers and writers of the records that the pipeline consumes and publishes."""

from dataclasses import dataclass

from leadstream.settings import Settings
from schemas.codec import Reader, Writer
from schemas.registry import Registry


@dataclass(frozen=True, slots=True)
class Codecs:
    """The readers of the consumed topics and the writers of the published ones."""

    changes: Reader
    requests: Reader
    predictions: Writer
    results: Writer
    shadow: Writer


def codecs_for(settings: Settings, registry: Registry | None) -> Codecs:
    """Return the codecs of the configured topics, with or without a schema registry."""
    topics = settings.topics
    return Codecs(
        changes=Reader("LeadChanged", registry),
        requests=Reader("RescoreRequest", registry),
        predictions=Writer("LeadPrediction", registry, topics.lead_predictions),
        results=Writer("RescoreResult", registry, topics.rescore_results),
        shadow=Writer("LeadPrediction", registry, topics.shadow_predictions),
    )
