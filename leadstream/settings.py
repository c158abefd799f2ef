"""The settings of every verb, read from the environment and a `.env` file, and checked.

A wrong setting raises SettingsError: one sentence that names the variable and the fix.
"""

import difflib
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import fields
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from leadstream.addresses import CHECKS, MASK, masked_url
from leadstream.budgets import conflict
from leadstream.env_file import read_env_file
from leadstream.errors import SettingsError
from leadstream.kafka import properties
from leadstream.kafka.topics import VARIABLES, Topics

# The names that the docs promise to Python users.
__all__ = ["Settings", "load_settings"]

KAFKA_PREFIX = "LEADSTREAM_KAFKA_"
# Read by the embedded broker and the tests, not by the service.
_READ_ELSEWHERE = {
    "LEADSTREAM_LOCAL_BROKER",
    "LEADSTREAM_REQUIRE_BROKER",
    "LEADSTREAM_REQUIRE_BROWSER",
}
# Settings whose value is shown; an address is shown without its password, and all else is masked.
_HARMLESS = """
KAFKA_BOOTSTRAP_SERVERS OTEL_TRACES_EXPORTER LEADSTREAM_MODEL_SIGNING_KEY
LEADSTREAM_MODEL_VERIFY_KEYS LEADSTREAM_MODEL_UNSIGNED LEADSTREAM_GROUP_ID LEADSTREAM_DELIVERY
LEADSTREAM_BATCH_MAX_RECORDS LEADSTREAM_BATCH_LINGER_MS LEADSTREAM_COALESCE LEADSTREAM_LATE
LEADSTREAM_JSON
LEADSTREAM_REASONS LEADSTREAM_CHALLENGER_SHARE LEADSTREAM_DEAD_LETTER_MAX_RATIO
LEADSTREAM_DEAD_LETTER_MAX_CONSECUTIVE LEADSTREAM_HTTP_HOST LEADSTREAM_HTTP_PORT
LEADSTREAM_HISTORY_COMMIT_SECONDS LEADSTREAM_HISTORY_ERASURE_HOURS
LEADSTREAM_TIME_ZONE LEADSTREAM_ACADEMIC_YEAR_START LEADSTREAM_SEASON_MONTHS LEADSTREAM_LOG_LEVEL
LEADSTREAM_LOG_FORMAT LEADSTREAM_FIELDS LEADSTREAM_LANGUAGE LEADSTREAM_VALID_CHANGE
"""
_DISPLAYED_SETTINGS = frozenset(_HARMLESS.split())
_ADDRESSES = frozenset({"DATABASE_URL", "SCHEMA_REGISTRY_URL", "MODEL_STORE", "LEADSTREAM_HISTORY"})

# librdkafka properties that would break delivery, each with the fix. `_SAFE` values are accepted.
_SAFE = {
    "enable.auto.commit": "false",
    "enable.auto.offset.store": "false",
    "enable.idempotence": "true",
    "acks": "all",
    "isolation.level": "read_committed",
    "enable.partition.eof": "false",
    "partition.assignment.strategy": "cooperative-sticky",
    "auto.offset.reset": "earliest",
}
_REFUSED = {
    "bootstrap.servers": "set KAFKA_BOOTSTRAP_SERVERS instead",
    "metadata.broker.list": "set KAFKA_BOOTSTRAP_SERVERS instead",
    "group.id": "set LEADSTREAM_GROUP_ID instead",
    "enable.auto.commit": "offsets are committed together with the outputs; unset it",
    "enable.auto.offset.store": "offsets are committed together with the outputs; unset it",
    "transactional.id": "each process needs its own, which it makes itself; unset it",
    "enable.idempotence": "without it a retry writes twice; unset it",
    "acks": "less than all replicas can lose acknowledged predictions; unset it",
    "request.required.acks": "less than all replicas can lose acknowledged predictions; unset it",
    "isolation.level": "uncommitted changes may be aborted and must not be scored; unset it",
    "enable.partition.eof": "end-of-partition events are not records; unset it",
    "auto.offset.reset": "any other than earliest passes over changes that nobody read; unset it",
    "partition.assignment.strategy": "the loop relies on cooperative rebalancing; unset it",
}
# The settings that decide what becomes of a change: the same in all processes of a group.
_SHARED = (
    "group_id",
    "delivery",
    "coalesce",
    "late",
    "json_changes",
    "reasons",
    "challenger_share",
    "dead_letter_max_ratio",
    "dead_letter_max_consecutive",
    "schema_registry_url",
    "topics",
)


class Delivery(StrEnum):
    """The guarantee with which outputs and offsets are committed."""

    EXACTLY_ONCE = "exactly-once"
    AT_LEAST_ONCE = "at-least-once"


class Late(StrEnum):
    """The handling of a change that arrives after a newer change of its lead was published."""

    COALESCE = "coalesce"
    SCORE = "score"


class JsonChanges(StrEnum):
    """The lead changes that are read as JSON: those with a header, or every JSON object."""

    HEADER = "header"
    ACCEPT = "accept"


class LogFormat(StrEnum):
    """The format of log lines."""

    AUTO = "auto"
    JSON = "json"
    CONSOLE = "console"


class LogLevel(StrEnum):
    """The least severe log line that is written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Traces(StrEnum):
    """The destination of traces."""

    NONE = "none"
    OTLP = "otlp"
    CONSOLE = "console"


class Unsigned(StrEnum):
    """The policy for models without a signature."""

    ALLOW = "allow"
    REFUSE = "refuse"


class Settings(BaseModel):
    """The effective settings; the descriptions are what `leadstream config` and the docs show."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kafka_bootstrap_servers: str | None = Field(
        default=None,
        alias="KAFKA_BOOTSTRAP_SERVERS",
        description="Kafka brokers as host:port, separated by commas.",
    )
    schema_registry_url: str | None = Field(
        default=None,
        alias="SCHEMA_REGISTRY_URL",
        repr=False,
        description="A Confluent-compatible registry; unset, records are Avro single objects.",
    )
    database_url: str | None = Field(
        default=None,
        alias="DATABASE_URL",
        repr=False,
        description="The CRM's Postgres; needed for changes that carry no state.",
    )
    model_store: str | None = Field(
        default=None,
        alias="MODEL_STORE",
        repr=False,
        description="Where models are kept: a folder or any fsspec URL.",
    )
    model_signing_key: str | None = Field(
        default=None,
        alias="LEADSTREAM_MODEL_SIGNING_KEY",
        description="Training: the private key (Ed25519, PEM) that signs models; unset, "
        "~/.config/leadstream/model-key.pem, which the first `leadstream train` makes.",
    )
    model_verify_keys: str | None = Field(
        default=None,
        alias="LEADSTREAM_MODEL_VERIFY_KEYS",
        description="The public keys whose models may serve: files, separated by commas; unset, "
        "the signing key's file name with .pub.",
    )
    model_unsigned: Unsigned = Field(
        default=Unsigned.REFUSE,
        alias="LEADSTREAM_MODEL_UNSIGNED",
        description="Whether a model without a signature may serve: allow or refuse.",
    )
    group_id: str = Field(
        default="leadstream",
        alias="LEADSTREAM_GROUP_ID",
        min_length=1,
        description="The consumer group.",
    )
    delivery: Delivery = Field(
        default=Delivery.EXACTLY_ONCE,
        alias="LEADSTREAM_DELIVERY",
        description="exactly-once (Kafka transactions) or at-least-once.",
    )
    batch_max_records: int = Field(
        default=2000,
        alias="LEADSTREAM_BATCH_MAX_RECORDS",
        ge=1,
        le=100_000,
        description="A batch closes at this many records.",
    )
    batch_linger_ms: int = Field(
        default=0,
        alias="LEADSTREAM_BATCH_LINGER_MS",
        ge=0,
        le=500,
        description="How long a batch with a record in it waits for more, in milliseconds.",
    )
    coalesce: bool = Field(
        default=True,
        alias="LEADSTREAM_COALESCE",
        description="Score only the newest change of a lead within a batch.",
    )
    late: Late = Field(
        default=Late.COALESCE,
        alias="LEADSTREAM_LATE",
        description="What becomes of a change that is older, by lead_version, than what was "
        "published of its lead: "
        "coalesce, or score.",
    )
    json_changes: JsonChanges = Field(
        default=JsonChanges.HEADER,
        alias="LEADSTREAM_JSON",
        description="Which lead changes are read as JSON. header: those with the header "
        "content-type application/json; accept: also every JSON object without it.",
    )
    reasons: int = Field(
        default=3,
        alias="LEADSTREAM_REASONS",
        ge=0,
        le=50,
        description="How many reasons a prediction carries; 0 = none.",
    )
    valid_change: float = Field(
        default=0.01,
        alias="LEADSTREAM_VALID_CHANGE",
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="A prediction states until when its grade stays, and its probability to "
        "within this change (`valid_until`), if nothing happens to the lead; 0 = it does not.",
    )
    language: str = Field(
        default="en",
        alias="LEADSTREAM_LANGUAGE",
        min_length=1,
        max_length=4096,
        description="The language of explanations: en, de, fr, es, or the path of a file like "
        "those in leadstream/sentences.",
    )
    challenger_share: float = Field(
        default=0,
        alias="LEADSTREAM_CHALLENGER_SHARE",
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="The share of leads that the challenger, if there is one, answers for; "
        "0 = none: it scores every lead, into the shadow topic.",
    )
    dead_letter_max_ratio: float = Field(
        default=0.5,
        alias="LEADSTREAM_DEAD_LETTER_MAX_RATIO",
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="Stop when dead letters are more than this share of the last 1,000 records, "
        "judged from 50 records on; 1 = never.",
    )
    dead_letter_max_consecutive: int = Field(
        default=500,
        alias="LEADSTREAM_DEAD_LETTER_MAX_CONSECUTIVE",
        ge=0,
        description="Stop when more than this many records in a row are dead letters; 0 = never.",
    )
    http_host: str = Field(
        default="127.0.0.1",
        alias="LEADSTREAM_HTTP_HOST",
        description="Address of the HTTP endpoints; an IPv6 address with or without brackets.",
    )
    http_port: int = Field(
        default=8080,
        alias="LEADSTREAM_HTTP_PORT",
        ge=0,
        le=65535,
        description="Port of the HTTP endpoints; 0 = any free one, which is logged.",
    )
    id_hash_key: str | None = Field(
        default=None,
        alias="LEADSTREAM_ID_HASH_KEY",
        repr=False,
        description="Key of the hashes that stand for lead ids in logs; "
        "unset, a new one at each start.",
    )
    crm_description: str | None = Field(
        default=None,
        alias="LEADSTREAM_FIELDS",
        description="The file that describes the CRM: its table of leads, its fields and its "
        "outcomes; unset, the table is `people` and files need --mapping.",
    )
    history: str | None = Field(
        default=None,
        alias="LEADSTREAM_HISTORY",
        repr=False,
        description="Where the history is kept: a folder or any URL that Delta Lake takes.",
    )
    history_commit_seconds: float = Field(
        default=10,
        alias="LEADSTREAM_HISTORY_COMMIT_SECONDS",
        ge=0,
        le=600,
        allow_inf_nan=False,
        description="A record waits at most so long for its commit to the history, in seconds.",
    )
    history_erasure_hours: float = Field(
        default=24,
        alias="LEADSTREAM_HISTORY_ERASURE_HOURS",
        ge=0,
        le=720,
        allow_inf_nan=False,
        description="An erased lead is in no file of the history after so many hours.",
    )
    time_zone: str = Field(
        default="UTC",
        alias="LEADSTREAM_TIME_ZONE",
        description="Training: the time zone of the calendar features, carried in the model.",
    )
    academic_year_start: str = Field(
        default="09-01",
        alias="LEADSTREAM_ACADEMIC_YEAR_START",
        pattern=r"^\d\d-\d\d$",
        description="Training: month and day on which the academic year begins, "
        "carried in the model.",
    )
    season_months: str = Field(
        default="9,10,11,12,1",
        alias="LEADSTREAM_SEASON_MONTHS",
        pattern=r"^\d{1,2}( *, *\d{1,2})*$",
        description="Training: the months of the application season, carried in the model.",
    )
    log_level: LogLevel = Field(
        default=LogLevel.INFO,
        alias="LEADSTREAM_LOG_LEVEL",
        description="debug, info, warning or error.",
    )
    log_format: LogFormat = Field(
        default=LogFormat.AUTO,
        alias="LEADSTREAM_LOG_FORMAT",
        description="json, console, or auto: console on a terminal, JSON elsewhere.",
    )
    otel_traces_exporter: Traces = Field(
        default=Traces.NONE,
        alias="OTEL_TRACES_EXPORTER",
        description="Traces of `run`: none, otlp (by HTTP, to OTEL_EXPORTER_OTLP_ENDPOINT) "
        "or console; "
        "needs the extra otel.",
    )
    topics: Topics = Field(
        default=Topics(),
        description="Topic names, each renamed by its LEADSTREAM_TOPIC_... variable.",
    )
    kafka: dict[str, str] = Field(
        default={},
        repr=False,
        description="Any librdkafka property, from LEADSTREAM_KAFKA_... variables.",
    )

    env_file: str | None = Field(
        default=None, description="The `.env` file that was read, or null if there is none."
    )

    def need(self, variable: str, purpose: str) -> str:
        """Return the value of a required setting. Raises SettingsError if it is unset."""
        for name, field in type(self).model_fields.items():
            if field.alias == variable and (value := getattr(self, name)):
                return str(value)
        raise SettingsError(f"{variable} is not set: {purpose}")


def load_settings(
    environment: dict[str, str] | None = None, env_file: Path | None = Path(".env")
) -> Settings:
    """Return the settings of the environment, which override those of a `.env` file.

    Raises SettingsError if one is wrong, or if somebody else could have written the file.
    """
    found = read_env_file(env_file) if env_file else None
    values = dict(found.values) if found else {}
    values |= os.environ if environment is None else environment
    values = {name: value.strip() for name, value in values.items() if value.strip()}
    kafka = {}
    for name, value in values.items():
        if name.startswith(KAFKA_PREFIX):
            key = name.removeprefix(KAFKA_PREFIX).lower().replace("_", ".")
            if key in _REFUSED and value.lower() != _SAFE.get(key):
                raise SettingsError(f"{name} is refused: {_REFUSED[key]}")
            if why := properties.why_it_runs_code(key, value) or properties.why_it_shows(
                key, value
            ):
                raise SettingsError(f"{name} is refused: {why}")
            kafka[key] = value
    topics = Topics(**{field: values[name] for name, field in VARIABLES.items() if name in values})
    names = [getattr(topics, field.name) for field in fields(Topics)]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise SettingsError(
            f"two topics are named {twice}: "
            "give each LEADSTREAM_TOPIC_... variable a name of its own"
        )
    known = {field.alias: field.alias for field in Settings.model_fields.values() if field.alias}
    given: dict[str, Any] = {name: values[name] for name in known if name in values}
    for name, check in CHECKS.items():
        if name in given:
            check(name, given[name])
    try:
        return Settings(**given, topics=topics, kafka=kafka, env_file=found.path if found else None)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        raise SettingsError(f"{name}={_masked(name, values[name])}: {_fix(first)}") from None


def unknown_variables(environment: dict[str, str] | None = None) -> list[str]:
    """Return one sentence for each LEADSTREAM_ variable that is not a setting, likely a typo."""
    known = [field.alias for field in Settings.model_fields.values() if field.alias] + list(
        VARIABLES
    )
    sentences = []
    for name in sorted(os.environ if environment is None else environment):
        if (
            name.startswith("LEADSTREAM_")
            and not name.startswith(KAFKA_PREFIX)
            and name not in {*known, *_READ_ELSEWHERE}
        ):
            near = difflib.get_close_matches(name, known, n=1)
            sentences.append(
                f"{name} is not a setting" + (f"; did you mean {near[0]}?" if near else "")
            )
    return sentences


def unfit_limits(kafka: Mapping[str, str]) -> list[str]:
    """Return a sentence if a time limit of librdkafka does not fit those of the project.

    `kafka` are the user's librdkafka properties. A service works with such a limit, but a fault may
    cost it more time, or a batch that it has to repeat.
    """
    if (found := conflict(kafka)) is None:
        return []
    key, why = found
    return [f"{variable_of(key)}={kafka[key]} does not fit: {why}"]


def variable_of(key: str) -> str:
    """Return the variable that sets a librdkafka property."""
    return KAFKA_PREFIX + key.upper().replace(".", "_")


def effective(settings: Settings) -> dict[str, str | None]:
    """Return every variable with its value in force and secrets masked, as `config` prints it."""
    rendered: dict[str, str | None] = {}
    for name, field in Settings.model_fields.items():
        if field.alias:
            value = getattr(settings, name)
            rendered[field.alias] = None if value is None else _masked(field.alias, str(value))
    rendered |= {variable: getattr(settings.topics, field) for variable, field in VARIABLES.items()}
    for key, value in sorted(settings.kafka.items()):
        rendered[variable_of(key)] = _masked(key, value)
    return rendered


def fingerprint_of(settings: Settings) -> str:
    """Return a fingerprint of the settings that all processes of a group should share.

    They decide what becomes of a change; addresses, logs and time limits do not.
    """
    shared = {name: str(getattr(settings, name)) for name in _SHARED}
    shared["group.protocol"] = settings.kafka.get("group.protocol", "classic")
    return hashlib.sha256(json.dumps(shared, sort_keys=True).encode()).hexdigest()[:16]


def _masked(name: str, value: str) -> str:
    """Return a value as it may be shown, by the name of its setting or its librdkafka property."""
    if name in _ADDRESSES or name in properties.ADDRESSES:
        return masked_url(value)
    return value if name in _DISPLAYED_SETTINGS or name in properties.HARMLESS else MASK


def _fix(error: Any) -> str:
    context = error.get("ctx", {})
    match error["type"]:
        case "greater_than_equal":
            return f"must be {context['ge']} or more"
        case "less_than_equal":
            return f"must be {context['le']} or less"
        case "enum":
            return f"must be {context['expected']}"
        case "int_parsing":
            return "must be a whole number"
        case "float_parsing" | "finite_number":
            return "must be a number"
        case "bool_parsing":
            return "must be true or false"
        case "string_pattern_mismatch":
            return "must look like its default, for example 09-01 for a day or 9,10,11 for months"
        case _:
            return str(error["msg"])
