"""A client of a Confluent-compatible schema registry.

It separates what the registry answers, what it does not have, and that it does not answer.
"""

import json
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any
from urllib.parse import SplitResult, quote, unquote, urlsplit, urlunsplit

from leadstream.deadline import Deadline
from leadstream.errors import Poison, Reason, SettingsError, Transient, UserError
from schemas.limits import UnboundedSchemaError, check_depth
from schemas.references import inline_references
from schemas.registry_http import RegistryHttp, SlowAnswer, UnusableAnswer

TIMEOUT_S = 5.0
UNKNOWN_FOR_S = 10.0
# The loop waits for unknown ids no longer than that, then turns once, and goes on.
UNKNOWN_BUDGET_S = 5.0
MAX_SCHEMA_CHARACTERS = 1_000_000
MAX_REFERENCES = 50
_LARGEST_ID = 2**31 - 1
_ASKED_TOGETHER = 8
_MAX_REFUSED = 100_000


class Registry:
    """The registry at `url` (SCHEMA_REGISTRY_URL).

    Several addresses are separated by commas; basic auth is user:password@. Nothing is sent before
    the first request, and no request is sent twice: the caller's loop retries. Each method raises
    Transient("registry", ...) while the registry is unreachable or overloaded, refuses the
    credentials, or gives an answer that is none.
    """

    def __init__(
        self, url: str, timeout_s: float = TIMEOUT_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        addresses, user = _without_user(url)
        self._http = RegistryHttp(addresses, user, timeout_s)
        self._clock = clock
        self._schemas: dict[int, Any] = {}
        # Why an id has no usable schema, and until when it is not asked for again.
        self._refused: dict[int, tuple[float, Poison]] = {}
        self._ids: dict[tuple[str, str], int] = {}

    def schema(self, number: int) -> Any:
        """Return the schema with this id as JSON data, with its references inside it.

        Raises Poison if there is no schema that can be used, and Transient.
        """
        if number in self._schemas:
            return self._schemas[number]
        if not is_schema_id(number):
            raise _unknown(number)
        until, poison = self._refused.get(number, (0.0, None))
        if poison is not None and until > self._clock():
            # A copy: an exception that is raised twice would keep both tracebacks.
            raise Poison(poison.reason, poison.stage, poison.detail)
        try:
            self._schemas[number] = self._fetch(number)
        except Poison as refused:
            self._refuse(number, refused)
            raise
        return self._schemas[number]

    def learn(self, numbers: Iterable[int]) -> None:
        """Ask for the ids that were not asked for yet, several at a time.

        It does not stop a loop for long: after UNKNOWN_BUDGET_S it raises Transient, and the next
        try goes on from there.
        """
        now = self._clock()
        wanted = sorted(
            number
            for number in set(numbers)
            if is_schema_id(number)
            and number not in self._schemas
            and self._refused.get(number, (0.0, None))[0] <= now
        )
        if len(wanted) < 2:  # `schema` asks for it
            return
        deadline = Deadline.after(UNKNOWN_BUDGET_S)
        with ThreadPoolExecutor(_ASKED_TOGETHER, "registry") as pool:
            for start in range(0, len(wanted), _ASKED_TOGETHER):
                if deadline.expired:
                    raise Transient(
                        "registry", f"it is asked for {len(wanted)} schema ids that are new"
                    )
                for _ in pool.map(self._try, wanted[start : start + _ASKED_TOGETHER]):
                    pass

    def schema_id(self, subject: str, schema: Any) -> int:
        """Return the id of `schema` under `subject`; register it if it is missing.

        Raises Transient; UserError if the registry refuses it.
        """
        # Look it up first: an account that may not register can still use a registered schema.
        found = self.find_id(subject, schema)
        if found is None:
            found = self._id_of(subject, schema, "/versions")
        if found is None:
            raise UserError(f"The schema registry cannot register a schema of {subject}.")
        return found

    def find_id(self, subject: str, schema: Any) -> int | None:
        """Return the id of `schema` under `subject`, None if it is not registered.

        From then on, `schema` knows this id without the registry. Raises Transient and UserError.
        """
        return self._id_of(subject, schema, "")

    def _id_of(self, subject: str, schema: Any, action: str) -> int | None:
        text = json.dumps(schema, separators=(",", ":"))
        if (subject, text) not in self._ids:
            path = f"subjects/{quote(subject, safe='')}{action}"
            answer = self._ask("POST", path, {"schema": text}, subject)
            if answer is None:
                return None
            number = _id_in(answer, subject)
            self._ids[subject, text] = number
            self._schemas[number] = schema
        return self._ids[subject, text]

    def set_compatibility(self, subject: str, level: str) -> None:
        """Set which changes the registry accepts into `subject`, for example FULL_TRANSITIVE.

        Raises Transient, UserError.
        """
        path = f"config/{quote(subject, safe='')}"
        if self._ask("PUT", path, {"compatibility": level}, subject) is None:
            raise UserError(f"The schema registry cannot set the compatibility of {subject}.")

    def ping(self) -> None:
        """Ask for the subjects, to check that the registry answers. Raises Transient if not."""
        subjects = self._ask("GET", "subjects")
        if subjects is None or not all(isinstance(subject, str) for subject in subjects):
            raise UnusableAnswer("its subjects are no texts; check SCHEMA_REGISTRY_URL")

    def close(self) -> None:
        """End the use of the registry; no connection outlives its request."""

    def _try(self, number: int) -> None:
        with suppress(Poison):  # kept, and raised for each record that names it
            self.schema(number)

    def _refuse(self, number: int, poison: Poison) -> None:
        now = self._clock()
        if len(self._refused) >= _MAX_REFUSED:
            self._refused.clear()
        # While many are refused, each is asked for less often.
        seconds = UNKNOWN_FOR_S * (1 + len(self._refused) // 100)
        self._refused[number] = (now + seconds, poison)

    def _fetch(self, number: int) -> Any:
        try:
            return self._ask_schema(number)
        except (UnusableAnswer, SlowAnswer):
            # Where the registry answers other questions, only this id is odd.
            self.ping()
        try:
            # It may have recovered in between.
            return self._ask_schema(number)
        except (UnusableAnswer, SlowAnswer) as error:
            slow = isinstance(error, SlowAnswer)
            why = "comes too late" if slow else "is no schema"
            raise _odd(f"The schema registry's answer for schema id {number} {why}.") from None

    def _ask_schema(self, number: int) -> Any:
        """Return a schema with its references inside it. Raises Poison and UnusableAnswer."""
        answer = self._ask("GET", f"schemas/ids/{number}")
        if answer is None:
            raise _unknown(number)
        what = f"Schema id {number}"
        schema = _schema_in(answer, what)
        references = self._references(answer, what)
        try:
            return inline_references(schema, references) if references else schema
        except (LookupError, TypeError, ValueError, AttributeError):
            raise Poison(
                Reason.DECODE_FAILED, "decode", f"{what} and its references are not valid Avro."
            ) from None

    def _references(self, answer: dict[str, Any], what: str) -> list[Any]:
        """Return the schemas that an answer refers to, each after those that it needs."""
        found: dict[tuple[str, int], Any] = {}
        self._collect(answer, what, found, ())
        return list(found.values())

    def _collect(
        self,
        answer: dict[str, Any],
        what: str,
        found: dict[tuple[str, int], Any],
        inside: tuple[tuple[str, int], ...],
    ) -> None:
        for place in _reference_places(answer, what):
            if place in found or place in inside:
                continue
            subject, version = place
            if len(found) + len(inside) >= MAX_REFERENCES:
                raise _odd(f"{what} has more than {MAX_REFERENCES} references.")
            named = self._ask("GET", f"subjects/{quote(subject, safe='')}/versions/{version}")
            if named is None:
                raise _odd(
                    f"{what} refers to version {version} of {_subject_name(subject)}, "
                    "which is missing."
                )
            schema = _schema_in(named, f"Version {version} of {_subject_name(subject)}")
            self._collect(named, what, found, (*inside, place))
            found[place] = schema

    def _ask(self, method: str, path: str, body: Any = None, subject: str = "") -> Any:
        """Return the answer, or None if the registry has no such schema, version or subject."""
        status, data = self._http.ask(method, path, body)
        fields = data if isinstance(data, dict) else {}
        # The code 404xx of the registry means "no such schema"; other 404s, a wrong address.
        if status == 404 and str(fields.get("error_code"))[:-2] == "404":
            return None
        if status in (409, 422):
            if method == "GET":
                raise UnusableAnswer(_refusal(status))
            message = fields.get("message")
            why = message[:500] if isinstance(message, str) else "it says no reason"
            raise UserError(
                f"The schema registry refuses the schema of {subject} (HTTP {status}): {why}"
            )
        if not 200 <= status < 300:
            raise Transient("registry", _refusal(status))
        if not isinstance(data, dict if path != "subjects" else list):
            raise UnusableAnswer("the answer is not JSON of a registry; check SCHEMA_REGISTRY_URL")
        return data


def is_schema_id(number: Any) -> bool:
    """Return whether a registry can have given this id: the one rule for reading and writing."""
    return isinstance(number, int) and not isinstance(number, bool) and 0 < number <= _LARGEST_ID


def _schema_in(answer: dict[str, Any], what: str) -> Any:
    """Return the Avro schema in an answer as JSON data. Raises Poison and UnusableAnswer."""
    kind, text = answer.get("schemaType"), answer.get("schema")
    if not isinstance(text, str):
        raise UnusableAnswer("the answer is not JSON of a registry; check SCHEMA_REGISTRY_URL")
    if kind not in (None, "AVRO") or not text:
        name = kind if isinstance(kind, str) and kind.isalnum() and len(kind) < 20 else "unknown"
        raise _odd(f"{what} is no Avro schema, but one of type {name}.")
    if len(text) > MAX_SCHEMA_CHARACTERS:
        raise _odd(f"{what} has more than {MAX_SCHEMA_CHARACTERS:,} characters.")
    try:
        schema = json.loads(text)
        check_depth(schema)
    except UnboundedSchemaError as error:
        raise Poison(Reason.DECODE_FAILED, "decode", f"{what} cannot be used: {error}.") from None
    except (ValueError, RecursionError):
        raise Poison(Reason.DECODE_FAILED, "decode", f"{what} is not valid JSON.") from None
    return schema


def _reference_places(answer: dict[str, Any], what: str) -> list[tuple[str, int]]:
    """Return the subject and version of each reference. Raises Poison."""
    references = answer.get("references") or []
    odd = _odd(f"{what} has references that cannot be read.")
    if not isinstance(references, list):
        raise odd
    places = []
    for each in references:
        subject, version = (
            (each.get("subject"), each.get("version")) if isinstance(each, dict) else (None, None)
        )
        if not isinstance(subject, str) or not 0 < len(subject) < 1000 or not _is_unicode(subject):
            raise odd
        if not is_schema_id(version):
            raise odd
        places.append((subject, int(str(version))))
    return places


def _subject_name(subject: str) -> str:
    """Return a subject for a sentence, if nothing but a name can be in it."""
    plain = len(subject) <= 200 and all(each.isalnum() or each in "._-/:" for each in subject)
    return subject if plain else "a subject with an odd name"


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _id_in(answer: dict[str, Any], subject: str) -> int:
    number = answer.get("id")
    if not isinstance(number, int) or isinstance(number, bool):
        raise UnusableAnswer(
            f"its answer for the schema of {subject} has no id; check SCHEMA_REGISTRY_URL"
        )
    if not is_schema_id(number):
        raise UserError(
            f"The schema registry gave the schema of {subject} an id that no record can hold; "
            f"an id is a number from 1 to {_LARGEST_ID}"
        )
    return number


def _without_user(url: str) -> tuple[list[str], str | None]:
    """Return the addresses without credentials, and the credentials.

    Errors of the HTTP client would show them.
    """
    hosts = []
    user = None
    for address in url.split(","):
        parts = _split(address.strip())
        if parts.username is not None and user is None:
            user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        hosts.append(urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])))
    return hosts, user


def _split(address: str) -> SplitResult:
    with suppress(ValueError):  # of a port that is no number, or an odd host
        parts = urlsplit(address)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return parts
    raise SettingsError(
        "SCHEMA_REGISTRY_URL must be an http:// or https:// address, or several with commas between"
    )


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
    if 300 <= status < 400:
        return (
            f"it redirects to another address (HTTP {status}); "
            "name that address in SCHEMA_REGISTRY_URL"
        )
    return f"it answers with an error (HTTP {status})"


def _unknown(number: int) -> Poison:
    return _odd(f"The schema registry has no schema with id {number}.")


def _odd(detail: str) -> Poison:
    return Poison(Reason.UNKNOWN_SCHEMA, "decode", detail)
