"""A client of a Confluent-compatible schema registry.

It separates what the registry answers, what it does not have, and that it does not answer.
"""

import json
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit, urlunsplit

from leadstream.errors import Poison, Reason, SettingsError, Transient, UserError

if TYPE_CHECKING:
    from confluent_kafka.schema_registry import Schema

TIMEOUT_S = 5.0
UNKNOWN_FOR_S = 10.0
_UNKNOWN_LIMIT = 1_000
_LARGEST_ID = 2**31 - 1


class Registry:
    """The registry at `url` (SCHEMA_REGISTRY_URL).

    Several addresses are separated by commas; basic auth is user:password@. Nothing is sent before
    the first request, and no request is sent twice: the caller's loop retries. Each method raises
    Transient("registry", ...) while the registry is unreachable or overloaded, or refuses the
    credentials.
    """

    def __init__(
        self, url: str, timeout_s: float = TIMEOUT_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        # Imported here because it loads an HTTP client, which takes time and only a registry needs.
        from confluent_kafka.schema_registry import SchemaRegistryClient  # noqa: PLC0415

        hosts, user = _without_user(url)
        settings: dict[str, Any] = {"url": hosts, "timeout": timeout_s, "max.retries": 0}
        if user:
            settings["basic.auth.user.info"] = user
        try:
            self._client = SchemaRegistryClient(settings)
        except OSError as error:
            raise SettingsError(f"SSL_CERT_FILE or SSL_CERT_DIR cannot be read: {error}") from None
        self._clock = clock
        self._timeout_s = timeout_s
        self._schemas: dict[int, Any] = {}
        self._unknown_until: dict[int, float] = {}
        self._ids: dict[tuple[str, str], int] = {}

    def schema(self, number: int) -> Any:
        """Return the schema with this id as JSON data.

        Raises Poison(UNKNOWN_SCHEMA) if there is none, and Transient.
        """
        if number in self._schemas:
            return self._schemas[number]
        if not 0 < number <= _LARGEST_ID or self._unknown_until.get(number, 0.0) > self._clock():
            raise _unknown(number)
        found = self._ask(partial(self._client.get_schema, number))
        if found is None:
            if len(self._unknown_until) >= _UNKNOWN_LIMIT:
                self._unknown_until.clear()
            self._unknown_until[number] = self._clock() + UNKNOWN_FOR_S
            raise _unknown(number)
        if found.schema_type not in (None, "AVRO") or not found.schema_str:
            detail = f"Schema id {number} is no Avro schema, but one of type {found.schema_type}."
            raise Poison(Reason.UNKNOWN_SCHEMA, "decode", detail)
        try:
            self._schemas[number] = json.loads(found.schema_str)
        except (ValueError, RecursionError):
            raise Poison(
                Reason.DECODE_FAILED, "decode", f"Schema id {number} is not valid JSON."
            ) from None
        return self._schemas[number]

    def schema_id(self, subject: str, schema: Any) -> int:
        """Return the id of `schema` under `subject`; register it if it is missing.

        Raises Transient; UserError if the registry refuses it.
        """
        text = json.dumps(schema, separators=(",", ":"))
        if (subject, text) not in self._ids:
            avro = self._avro(text)
            # Look it up first: an account that may not register can still use a registered schema.
            known = self._ask(partial(self._client.lookup_schema, subject, avro), subject)
            number = (
                known.schema_id
                if known
                else self._ask(partial(self._client.register_schema, subject, avro), subject)
            )
            if number is None:
                raise UserError(f"The schema registry cannot register a schema of {subject}.")
            self._ids[subject, text] = int(number)
        return self._ids[subject, text]

    def set_compatibility(self, subject: str, level: str) -> None:
        """Set which changes the registry accepts into `subject`, for example FULL_TRANSITIVE.

        Raises Transient, UserError.
        """
        if self._ask(partial(self._client.set_compatibility, subject, level), subject) is None:
            raise UserError(f"The schema registry cannot set the compatibility of {subject}.")

    def ping(self) -> None:
        """Ask for the subjects, to check that the registry answers. Raises Transient if not."""
        self._ask(self._client.get_subjects)

    def close(self) -> None:
        """Close the connections; it may be called twice."""
        self._client.close()

    @staticmethod
    def _avro(text: str) -> "Schema":
        from confluent_kafka.schema_registry import Schema  # noqa: PLC0415

        return Schema(text, "AVRO")

    def _ask(self, question: Callable[[], Any], subject: str = "") -> Any:
        """Return the answer, or None if the registry has no such schema, version or subject."""
        from confluent_kafka.schema_registry import SchemaRegistryError  # noqa: PLC0415

        http = _http()
        try:
            return question()
        except SchemaRegistryError as error:
            status = error.http_status_code
            # The code 404xx of the registry means "no such schema"; other 404s, a wrong address.
            if status == 404 and str(error.error_code)[:-2] == "404":
                return None
            if status in (409, 422):
                detail = (
                    f"The schema registry refuses the schema of {subject} "
                    f"(HTTP {status}): {error.error_message}"
                )
                raise UserError(detail) from None
            raise Transient("registry", _refusal(status)) from None
        except http.TimeoutException:
            raise Transient("registry", f"it gave no answer within {self._timeout_s:g} s") from None
        except http.TransportError as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise Transient(
                    "registry",
                    f"its certificate cannot be trusted ({error}); "
                    "name its authority in SSL_CERT_FILE",
                ) from None
            raise Transient("registry", f"it cannot be reached ({error})") from None
        except ValueError:
            raise Transient(
                "registry", "the answer is not JSON; check SCHEMA_REGISTRY_URL"
            ) from None


def _without_user(url: str) -> tuple[str, str | None]:
    """Return the addresses without credentials, and the credentials.

    Errors of the HTTP client would show them.
    """
    hosts = []
    user = None
    for address in url.split(","):
        parts = urlsplit(address.strip())
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SettingsError(
                "SCHEMA_REGISTRY_URL must be an http:// or https:// address, "
                "or several with commas between"
            )
        if parts.username is not None and user is None:
            user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        hosts.append(urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])))
    return ",".join(hosts), user


def _http() -> Any:
    """Return the HTTP library of confluent-kafka: httpx2 where it is installed, else httpx."""
    return import_module("httpx2" if find_spec("httpx2") else "httpx")


def _refusal(status: int) -> str:
    if status in (401, 403):
        return (
            f"it refuses the credentials (HTTP {status}); "
            "check the user and password in SCHEMA_REGISTRY_URL"
        )
    if status == 404:
        return (
            "no registry answers at this address (HTTP 404); check the path in SCHEMA_REGISTRY_URL"
        )
    return f"it answers with an error (HTTP {status})"


def _unknown(number: int) -> Poison:
    return Poison(
        Reason.UNKNOWN_SCHEMA, "decode", f"The schema registry has no schema with id {number}."
    )
