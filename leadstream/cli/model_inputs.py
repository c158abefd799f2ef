"""The inputs that a model needs and Postgres does not bring, and a sentence about them."""

import sys
from collections.abc import Collection, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leadstream.settings import Settings
    from models.registry.versions import ModelRegistry


def inputs_without_column(
    manifest: Mapping[str, Any], settings: "Settings", *, ask: bool = False
) -> list[str]:
    """Return the inputs that the model learned from, and Postgres cannot bring.

    With `ask`, the database says which columns it has. Raises Transient if it does not answer.
    """
    from leadstream.lead_fields import CRM_FIELDS
    from models.monitor.inputs import absent_inputs
    from schemas.description_file import described_crm

    crm = described_crm(settings)
    described = crm.fields if crm and crm.database else ()
    fields = {field.name for field in described} or {field.name for field in CRM_FIELDS}
    if ask and settings.database_url:
        from consumer.run.postgres import PostgresLeads

        leads = PostgresLeads(settings.database_url, crm)
        try:
            leads.fetch(["0"])
            fields -= set(leads.lacking)
        finally:
            leads.close()
    return absent_inputs(manifest, fields)


def leads_to_lose(
    registry: "ModelRegistry",
    inputs: list[str],
    settings: "Settings",
    lead_ids: Collection[str] | None,
) -> int:
    """Return how many leads have a current score that was made with one of these inputs.

    `lead_ids` is None for all leads.
    """
    from consumer.current_prediction import leads_with_inputs, reading_predictions
    from leadstream.errors import LeadstreamError
    from leadstream.kafka.topic_reader import NoTopic
    from models.monitor.inputs import was_made_with

    @cache
    def manifest(version: str) -> dict[str, Any]:
        try:
            return registry.show(version)
        except LeadstreamError:
            return {}  # of another store, or removed

    def made_with(prediction: dict[str, Any]) -> bool:
        return was_made_with(prediction, manifest(prediction["model_version"]), inputs)

    print("reading the current scores ...", file=sys.stderr)
    try:
        with reading_predictions(settings) as (topic, decoder):
            return leads_with_inputs(topic, decoder, made_with, lead_ids)
    except NoTopic:
        return 0


def sentence_of(version: str, inputs: list[str]) -> str:
    """Return what the absence of these inputs means."""
    return (
        f"model {version} reads {', '.join(inputs)}, which Postgres does not bring: changes must "
        "carry it, and the outbox and rescored leads lack it until LEADSTREAM_FIELDS describes it"
    )
