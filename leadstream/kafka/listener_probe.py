"""Probes of a broker's listener without librdkafka, which reports only that it failed."""

import socket
import ssl

SECONDS = 2.0
# ApiVersions 0, which every broker answers: length, key, version, correlation id, no client id.
_GREETING = bytes.fromhex("0000000a 0012 0000 00000001 ffff")


def answers_as_broker(address: str, *, tls: bool) -> bool:
    """Return whether a broker answers there, with TLS or without; a TLS alert is an answer, too."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    host, port = _parts(address)
    try:
        with (
            socket.create_connection((host, port), SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=host) if tls else plain as connection,
        ):
            connection.sendall(_GREETING)
            # An answer begins with its length; a listener with TLS only sends 0x15, an alert.
            return connection.recv(1) == b"\0"
    except ssl.SSLError as error:
        return "ALERT" in (error.reason or "")
    except OSError:
        return False


def certificate_problem(address: str, *, ca_file: str | None, ca_text: str | None) -> str | None:
    """Return why the certificate of the address does not verify, or None.

    It is checked against these authorities, or those of the system.
    """
    host, port = _parts(address)
    try:
        context = ssl.create_default_context(cafile=ca_file, cadata=ca_text)
        with (
            socket.create_connection((host, port), SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=host),
        ):
            return None
    except ssl.SSLCertVerificationError as error:
        return error.verify_message.rstrip(".")
    except OSError:
        return None


def _parts(address: str) -> tuple[str, int]:
    """Return host and port of an address, 9092 by default; IPv6 is in brackets."""
    host, colon, port = address.partition("://")[2 if "://" in address else 0].rpartition(":")
    if not colon or not port.isdigit():
        return address.strip("[]"), 9092
    return host.strip("[]"), int(port)
