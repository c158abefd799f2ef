"""A check at start that the brokers accept this client.

librdkafka retries for ever. For a wrong certificate, or a listener with another protocol, it
reports only that the connection failed. Then this check probes the address and names the cause.
"""

import os
import re
from contextlib import suppress

from confluent_kafka import KafkaError, KafkaException, Producer

from leadstream.errors import SettingsError, error_text
from leadstream.kafka.config import client_config, config_error
from leadstream.kafka.listener_probe import answers_as_broker, certificate_problem
from leadstream.log import SILENT
from leadstream.settings import KAFKA_PREFIX, Settings, variable_of

# Each attempt lasts longer than the one before, for distant brokers; together they take 3 seconds.
TRY_SECONDS = (0.1, 0.3, 0.6, 2.0)
_WRAPPING = re.compile(r"^\S+/(?:bootstrap|\d+): |\s*\(after \d+ms in state \w+.*")
_PROTOCOL = f"{KAFKA_PREFIX}SECURITY_PROTOCOL"


class ConnectionCheck:
    """A first connection to the brokers.

    It begins here and `check` waits for it: other modules can be imported in between.
    """

    def __init__(self, settings: Settings) -> None:
        """Begin to connect. Raises SettingsError if the client refuses its settings."""
        _check_files(settings)
        self._settings = settings
        self._errors: list[KafkaError] = []
        try:
            self._client = self._client_that_reports(self._errors)
        except KafkaException as error:
            raise config_error(error) from None

    def check(self) -> None:
        """Raise SettingsError if the brokers refuse this client; return if they do not answer."""
        for seconds in TRY_SECONDS:
            with suppress(KafkaException):
                self._client.list_topics(timeout=seconds)
                return
            self._client.poll(0)
            if _all_down(self._errors):
                break
        else:
            return
        if (why := self._refusal()) is not None:
            raise SettingsError(why)

    def _client_that_reports(self, errors: list[KafkaError]) -> Producer:
        return Producer({**client_config(self._settings), "error_cb": errors.append}, logger=SILENT)

    def _hangs_up(self) -> bool:
        """Return whether a new client is refused, too; not if the brokers have just come back."""
        errors: list[KafkaError] = []
        client = self._client_that_reports(errors)
        with suppress(KafkaException):
            client.list_topics(timeout=TRY_SECONDS[-1])
            return False
        client.poll(0)
        return _all_down(errors)

    def _refusal(self) -> str | None:
        """Return why every broker refused, in one sentence; None if none can be reached."""
        for error in self._errors:
            text = _WRAPPING.sub("", error_text(error))
            if error.code() == KafkaError._AUTHENTICATION and "Disconnected" not in text:
                return (
                    f"the brokers refuse the credentials ({text}): check {self._credentials(text)}"
                )
            if error.code() == KafkaError._TRANSPORT and "alert" in text:
                return (
                    "the brokers refuse this client's certificate "
                    f"({text.rpartition('::')[2]}): check "
                    f"{KAFKA_PREFIX}SSL_CERTIFICATE_LOCATION and {KAFKA_PREFIX}SSL_KEY_LOCATION"
                )
        servers = self._settings.need(
            "KAFKA_BOOTSTRAP_SERVERS", "name the brokers, for example localhost:9092"
        )
        for address in servers.split(","):
            if (why := self._look(address.strip())) is not None:
                return why
        return None

    def _credentials(self, text: str) -> str:
        if "handshake failed" in text:
            return f"{KAFKA_PREFIX}SASL_MECHANISM and {_PROTOCOL}"
        if "sasl.username" in self._settings.kafka:
            return f"{KAFKA_PREFIX}SASL_USERNAME and {KAFKA_PREFIX}SASL_PASSWORD"
        return f"the {KAFKA_PREFIX}SASL_... variables"

    def _look(self, address: str) -> str | None:
        properties = self._settings.kafka
        protocol = properties.get("security.protocol", "plaintext").lower()
        with_tls = protocol.endswith("ssl")
        if any(error.code() == KafkaError._SSL for error in self._errors):
            why = certificate_problem(
                address,
                ca_file=properties.get("ssl.ca.location"),
                ca_text=properties.get("ssl.ca.pem"),
            )
            return (
                f"the certificate of {address} cannot be trusted ({why or 'it does not verify'}): "
                f"check {KAFKA_PREFIX}SSL_CA_LOCATION, the name in KAFKA_BOOTSTRAP_SERVERS, "
                "and the certificate"
            )
        if answers_as_broker(address, tls=not with_tls):
            speaks, wanted = (
                ("no TLS", "PLAINTEXT or SASL_PLAINTEXT")
                if with_tls
                else ("TLS", "SSL or SASL_SSL")
            )
            return f"{address} speaks {speaks}: set {_PROTOCOL} to {wanted}, or name another port"
        # Probed before and after a client: a broker that just started or stopped did not refuse it.
        if (
            not protocol.startswith("sasl")
            and answers_as_broker(address, tls=with_tls)
            and self._hangs_up()
            and answers_as_broker(address, tls=with_tls)
        ):
            wanted = "SASL_SSL" if with_tls else "SASL_PLAINTEXT"
            return (
                f"{address} hangs up on clients without SASL: set {_PROTOCOL} to {wanted}, "
                "or name another port"
            )
        return None


def _all_down(errors: list[KafkaError]) -> bool:
    return any(error.code() == KafkaError._ALL_BROKERS_DOWN for error in errors)


def _check_files(settings: Settings) -> None:
    """Check that files are readable: librdkafka names only the property, not what is wrong."""
    for key, value in settings.kafka.items():
        if (
            key.startswith("ssl.")
            and key.endswith(".location")
            and value != "probe"
            and not os.access(value, os.R_OK)
        ):
            raise SettingsError(
                f"{variable_of(key)}={value}: "
                "there is no such file, or this account may not read it"
            )
