"""Whether the brokers let this client in: wrong credentials and certificates are for a person to mend, not to wait for.

The client tries again for ever, and of a certificate, or of a listener with another protocol, it says only that it went
wrong: then the address is looked at once more, for a sentence that names what it is.
"""

import os
import re
from contextlib import suppress

from confluent_kafka import KafkaError, KafkaException, Producer

from leadstream.errors import SettingsError
from leadstream.kafka.config import client_config, config_error
from leadstream.kafka.listener_probe import answers_as_broker, certificate_problem
from leadstream.log import SILENT
from leadstream.settings import KAFKA_PREFIX, Settings, variable_of

# Each try has longer than the one before, for brokers that are far away; all of them together have 3 seconds.
TRY_SECONDS = (0.1, 0.3, 0.6, 2.0)
_WRAPPING = re.compile(r"^\S+/(?:bootstrap|\d+): |\s*\(after \d+ms in state \w+.*")
_PROTOCOL = f"{KAFKA_PREFIX}SECURITY_PROTOCOL"


class ConnectionCheck:
    """A first connection to the brokers. It is begun here and judged by `check`: modules may be loaded in between."""

    def __init__(self, settings: Settings) -> None:
        """Raises SettingsError where the client refuses its settings."""
        _check_files(settings)
        self._settings = settings
        self._heard: list[KafkaError] = []
        try:
            self._client = self._listening(self._heard)
        except KafkaException as error:
            raise config_error(error) from None

    def check(self) -> None:
        """Returns where the brokers let this client in, and where they do not answer. Raises SettingsError."""
        for seconds in TRY_SECONDS:
            with suppress(KafkaException):
                self._client.list_topics(timeout=seconds)
                return
            self._client.poll(0)
            if _all_down(self._heard):
                break
        else:
            return
        if (why := self._refusal()) is not None:
            raise SettingsError(why)

    def _listening(self, heard: list[KafkaError]) -> Producer:
        return Producer({**client_config(self._settings), "error_cb": heard.append}, logger=SILENT)

    def _hangs_up(self) -> bool:
        """Whether a new client is not let in either: it is where brokers have just come back."""
        heard: list[KafkaError] = []
        client = self._listening(heard)
        with suppress(KafkaException):
            client.list_topics(timeout=TRY_SECONDS[-1])
            return False
        client.poll(0)
        return _all_down(heard)

    def _refusal(self) -> str | None:
        """Why every broker was given up, in one sentence; None where none of them can be reached."""
        for error in self._heard:
            said = _WRAPPING.sub("", error.str())
            if error.code() == KafkaError._AUTHENTICATION and "Disconnected" not in said:
                return (
                    f"the brokers refuse the credentials ({said}): check {self._credentials(said)}"
                )
            if error.code() == KafkaError._TRANSPORT and "alert" in said:
                return (
                    f"the brokers refuse this client's certificate ({said.rpartition('::')[2]}): check "
                    f"{KAFKA_PREFIX}SSL_CERTIFICATE_LOCATION and {KAFKA_PREFIX}SSL_KEY_LOCATION"
                )
        servers = self._settings.need(
            "KAFKA_BOOTSTRAP_SERVERS", "name the brokers, for example localhost:9092"
        )
        for address in servers.split(","):
            if (why := self._look(address.strip())) is not None:
                return why
        return None

    def _credentials(self, said: str) -> str:
        if "handshake failed" in said:
            return f"{KAFKA_PREFIX}SASL_MECHANISM and {_PROTOCOL}"
        if "sasl.username" in self._settings.kafka:
            return f"{KAFKA_PREFIX}SASL_USERNAME and {KAFKA_PREFIX}SASL_PASSWORD"
        return f"the {KAFKA_PREFIX}SASL_... variables"

    def _look(self, address: str) -> str | None:
        properties = self._settings.kafka
        protocol = properties.get("security.protocol", "plaintext").lower()
        with_tls = protocol.endswith("ssl")
        if any(error.code() == KafkaError._SSL for error in self._heard):
            why = certificate_problem(
                address,
                ca_file=properties.get("ssl.ca.location"),
                ca_text=properties.get("ssl.ca.pem"),
            )
            return (
                f"the certificate of {address} cannot be trusted ({why or 'it does not verify'}): check "
                f"{KAFKA_PREFIX}SSL_CA_LOCATION, the name in KAFKA_BOOTSTRAP_SERVERS, and the certificate"
            )
        if answers_as_broker(address, tls=not with_tls):
            speaks, wanted = (
                ("no TLS", "PLAINTEXT or SASL_PLAINTEXT")
                if with_tls
                else ("TLS", "SSL or SASL_SSL")
            )
            return f"{address} speaks {speaks}: set {_PROTOCOL} to {wanted}, or name another port"
        # Before a client and after it: brokers that come or go did not hang up on it.
        if (
            not protocol.startswith("sasl")
            and answers_as_broker(address, tls=with_tls)
            and self._hangs_up()
            and answers_as_broker(address, tls=with_tls)
        ):
            wanted = "SASL_SSL" if with_tls else "SASL_PLAINTEXT"
            return f"{address} hangs up on clients without SASL: set {_PROTOCOL} to {wanted}, or name another port"
        return None


def _all_down(heard: list[KafkaError]) -> bool:
    return any(error.code() == KafkaError._ALL_BROKERS_DOWN for error in heard)


def _check_files(settings: Settings) -> None:
    """librdkafka names the property of a file that it cannot read, and not what is wrong with it."""
    for key, value in settings.kafka.items():
        if (
            key.startswith("ssl.")
            and key.endswith(".location")
            and value != "probe"
            and not os.access(value, os.R_OK)
        ):
            raise SettingsError(
                f"{variable_of(key)}={value}: there is no such file, or this account may not read it"
            )
