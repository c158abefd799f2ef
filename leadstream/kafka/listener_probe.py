"""What stands at a broker's address, looked at without the client, which only says that it went wrong."""

import socket
import ssl

SECONDS = 2.0
# ApiVersions 0, which every broker answers to everybody: length, key, version, correlation id, no client id.
_GREETING = bytes.fromhex("0000000a 0012 0000 00000001 ffff")


def answers_as_broker(address: str, *, tls: bool) -> bool:
    """Whether a broker answers there, with TLS or without; a refusal in the words of TLS is an answer too."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    host, port = _parts(address)
    try:
        with (
            socket.create_connection((host, port), SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=host) if tls else plain as connection,
        ):
            connection.sendall(_GREETING)
            # The length of an answer begins so; what speaks TLS alone says 0x15, an alert.
            return connection.recv(1) == b"\0"
    except ssl.SSLError as error:
        return "ALERT" in (error.reason or "")
    except OSError:
        return False


def certificate_problem(address: str, *, ca_file: str | None, ca_text: str | None) -> str | None:
    """Why the certificate that is shown there does not verify against these authorities, or the system's."""
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
    """Host and port, 9092 where none is given; IPv6 in brackets."""
    host, colon, port = address.partition("://")[2 if "://" in address else 0].rpartition(":")
    if not colon or not port.isdigit():
        return address.strip("[]"), 9092
    return host.strip("[]"), int(port)
