"""A broker that lets nobody in without credentials and nobody do what was not granted:

TLS, SCRAM, client certificates.

Its plaintext listener is the administrator's, who may do everything; the tests' own clients come in
there.
"""

import contextlib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # not in its __all__
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from leadstream.local.kafka import KafkaProcess, fetch_jars, find_java
from leadstream.local.process import Say, free_ports, scratch

HOST = "127.0.0.1"
# Every listener of the broker, and whose certificate it shows.
_LISTENERS = {"SASL_SSL": "broker", "SSL": "broker", "EXPIRED": "expired"}
_PROPERTIES = """\
listeners={listeners}
advertised.listeners={advertised}
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,SSL:SSL,EXPIRED:SSL
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=\
org.apache.kafka.common.security.scram.ScramLoginModule required;
ssl.keystore.type=PEM
ssl.truststore.type=PEM
ssl.truststore.location={folder}/authority.pem
listener.name.ssl.ssl.client.auth=required
ssl.principal.mapping.rules=RULE:^.*CN=([^,]+).*$/$1/
"""


@dataclass(frozen=True, slots=True)
class Grant:
    """One thing that an account may do; a name that ends with * is a prefix."""

    kind: str
    operation: str
    name: str

    def binding(self, principal: str) -> AclBinding:
        prefix = self.name.endswith("*")
        return AclBinding(
            ResourceType[self.kind],
            self.name.removesuffix("*"),
            ResourcePatternType.PREFIXED if prefix else ResourcePatternType.LITERAL,
            principal,
            "*",
            AclOperation[self.operation],
            AclPermissionType.ALLOW,
        )


@dataclass(frozen=True, slots=True)
class Account:
    """A principal with the settings by which it comes in."""

    principal: str
    settings: dict[str, str]


class Secured:
    """The broker, its authority, and accounts."""

    def __init__(self, folder: Path, jars: Path, program: str) -> None:
        self.folder = folder
        self._authority, self.stranger = trustme.CA(), trustme.CA()
        self.authority = folder / "authority.pem"
        self._authority.cert_pem.write_to_path(str(self.authority))
        past = datetime.now(UTC) - timedelta(days=1)
        _write(folder / "broker.pem", self._authority.issue_cert(HOST))
        _write(folder / "expired.pem", self._authority.issue_cert(HOST, not_after=past))
        port, controller, *others = free_ports(2 + len(_LISTENERS))
        self.ports = dict(zip(_LISTENERS, others, strict=True))
        listeners = [
            f"PLAINTEXT://{HOST}:{port}",
            *(f"{name}://{HOST}:{p}" for name, p in self.ports.items()),
        ]
        properties = _PROPERTIES.format(
            listeners=",".join([*listeners, f"CONTROLLER://{HOST}:{controller}"]),
            advertised=",".join(listeners),
            folder=folder,
        )
        for name, certificate in _LISTENERS.items():
            properties += (
                f"listener.name.{name.lower()}.ssl.keystore.location={folder}/{certificate}.pem\n"
            )
        self.node = KafkaProcess(
            folder, jars, program, ports=(port, controller), properties=properties
        )

    def address(self, listener: str) -> str:
        """Where a listener is."""
        return self.node.bootstrap if listener == "PLAINTEXT" else f"{HOST}:{self.ports[listener]}"

    def strangers_authority(self) -> str:
        """A file with an authority that vouches for nobody here."""
        path = str(self.folder / "stranger.pem")
        self.stranger.cert_pem.write_to_path(path)
        return path

    def user(self) -> Account:
        """A new SCRAM user."""
        name, password = f"user-{uuid.uuid4().hex[:8]}", f"hunter2 {uuid.uuid4().hex}"
        info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
        upsertion = UserScramCredentialUpsertion(name, info, password.encode())
        admin = self._admin()
        for future in admin.alter_user_scram_credentials([upsertion]).values():
            future.result(30)
        return Account(
            f"User:{name}",
            {
                "KAFKA_BOOTSTRAP_SERVERS": self.address("SASL_SSL"),
                "LEADSTREAM_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
                "LEADSTREAM_KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
                "LEADSTREAM_KAFKA_SASL_USERNAME": name,
                "LEADSTREAM_KAFKA_SASL_PASSWORD": password,
                "LEADSTREAM_KAFKA_SSL_CA_LOCATION": str(self.authority),
            },
        )

    def bearer(self, authority: trustme.CA | None = None) -> Account:
        """Who has a client certificate of this authority, or of another."""
        name = f"client-{uuid.uuid4().hex[:8]}"
        certificate = (authority or self._authority).issue_cert(name, common_name=name)
        _write(self.folder / f"{name}.pem", certificate)
        return Account(
            f"User:{name}",
            {
                "KAFKA_BOOTSTRAP_SERVERS": self.address("SSL"),
                "LEADSTREAM_KAFKA_SECURITY_PROTOCOL": "SSL",
                "LEADSTREAM_KAFKA_SSL_CA_LOCATION": str(self.authority),
                "LEADSTREAM_KAFKA_SSL_CERTIFICATE_LOCATION": str(self.folder / f"{name}.pem"),
                "LEADSTREAM_KAFKA_SSL_KEY_LOCATION": str(self.folder / f"{name}.pem"),
            },
        )

    def grant(self, account: Account, *grants: Grant) -> None:
        """Let an account do these things, too."""
        admin = self._admin()
        for added in admin.create_acls(
            [grant.binding(account.principal) for grant in grants]
        ).values():
            added.result(30)

    def _admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.node.bootstrap})


@contextlib.contextmanager
def secured_broker(say: Say) -> Iterator[Secured]:
    """Start one, as `local_kafka` does."""
    program, jars = find_java(), fetch_jars(say)
    with scratch("secured") as folder:
        broker = Secured(folder, jars, program)
        try:
            broker.node.start()
            yield broker
        finally:
            broker.node.kill()


def _write(path: Path, certificate: trustme.LeafCert) -> None:
    """Key and certificate in one file; Kafka reads keys in PKCS #8 only."""
    key = load_pem_private_key(certificate.private_key_pem.bytes(), None)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(pem + b"".join(part.bytes() for part in certificate.cert_chain_pems))
