"""Addresses that may hold a password: which are accepted, and how they are shown.

Only what is known to be harmless is shown. An address that clients could split at another place
than its author meant is refused, because errors of clients repeat its parts.
"""

import re
from collections.abc import Callable
from urllib.parse import unquote, unquote_to_bytes

from leadstream.errors import SettingsError

MASK = "********"

_SCHEME = r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*(?:::[A-Za-z][A-Za-z0-9+.-]*)*)://"
_USER = r"(?:(?P<user>[^:@/]*)(?P<password>:[^@/]*)?@)?"
_HOST = r"(?:\[[0-9A-Za-z:.%]+\]|[^\s@/?#:,\[\]\\]*)(?::[0-9]{0,5})?"
_HOSTS = rf"(?P<hosts>{_HOST}(?:,{_HOST})*)"
_REST = r"(?P<path>/[^?#]*)?(?P<query>\?[^#]*)?(?P<fragment>#.*)?"
_URL = re.compile(_SCHEME + _USER + _HOSTS + _REST)
_HTTP = re.compile(
    r"https?://(?:[^@/?#:\[\]\\]*(?::[^@/?#\[\]\\]*)?@)?"
    r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?(?:/[^\s@?#]*)?"
)
# Connection strings of libpq: key=value, quoted or not. One way to match each: no backtracking.
_VALUE = r"(?:'(?:[^'\\]|\\.)*'|(?:[^\s'\\]|\\.)(?:[^\s\\]|\\.)*)"
_PAIR = re.compile(rf"([a-z_]+)(\s*=\s*)({_VALUE})")
_PAIRS = re.compile(rf"\s*[a-z_]+\s*=\s*{_VALUE}(?:\s+[a-z_]+\s*=\s*{_VALUE})*\s*")
_SPLIT = re.compile(r",(?=\s*[\w+.-]+://)")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")

_POSTGRES = ("postgresql", "postgres")
# Schemes whose user is a name even without a password; elsewhere it may be a token.
_NAMED = (*_POSTGRES, "abfs", "abfss", "wasb", "wasbs")
_HARMLESS = """
application_name client_encoding connect_timeout dbname fallback_application_name gssencmode
host hostaddr keepalives keepalives_count keepalives_idle keepalives_interval load_balance_hosts
options port sslcert sslcrl sslkey sslmode sslrootcert target_session_attrs tcp_user_timeout
user
"""
_OTHERS = """
channel_binding gssdelegation gsslib krbsrvname max_protocol_version min_protocol_version
oauth_client_id oauth_client_secret oauth_issuer oauth_scope passfile password replication
require_auth requirepeer scram_client_key scram_server_key service servicefile ssl sslcertmode
sslcompression sslcrldir sslkeylogfile ssl_max_protocol_version ssl_min_protocol_version
sslnegotiation sslpassword sslsni
"""
_DISPLAYED = frozenset(_HARMLESS.split())
_KNOWN = _DISPLAYED | frozenset(_OTHERS.split())
_ESCAPES = "in a user or password write @ as %40, : as %3A and / as %2F"
_MAX_CHARACTERS = 10_000


def check_database_url(variable: str, url: str) -> None:
    """Raise SettingsError unless this is an address of Postgres that is read in one way only."""
    if not (_is_postgres(url) if "://" in url else _is_pairs(url)):
        raise SettingsError(
            f"{variable} cannot be read: write postgresql://user:password@host:port/database; "
            + _ESCAPES
        )


def check_registry_url(variable: str, url: str) -> None:
    """Raise SettingsError unless these are http addresses, with commas between."""
    # Of a password outside of ASCII, Python's own errors repeat the address.
    if not (url.isascii() and _short(url)) or not all(
        _HTTP.fullmatch(each.strip()) for each in url.split(",")
    ):
        raise SettingsError(
            f"{variable} must be an http:// or https:// address, or several with commas between, "
            f"as https://user:password@host:port; {_ESCAPES}"
        )


def check_store_url(variable: str, url: str) -> None:
    """Raise SettingsError unless this is a folder, or a URL that is read in one way only."""
    if "://" in url:
        found = _match(url)
        readable = found is not None and "," not in found["hosts"]
    else:
        readable = _is_folder(url)
    if not readable:
        raise SettingsError(
            f"{variable} cannot be read: name a folder, or a URL as s3://bucket/folder; {_ESCAPES}"
        )


def check_brokers(variable: str, servers: str) -> None:
    """Raise SettingsError if a broker's address holds a user or password."""
    if "@" in servers or not _short(servers):
        raise SettingsError(
            f"{variable} takes host:port, separated by commas, without a user or password; "
            "set LEADSTREAM_KAFKA_SASL_USERNAME and LEADSTREAM_KAFKA_SASL_PASSWORD"
        )


def check_file_name(variable: str, names: str) -> None:
    """Raise SettingsError if this is a key itself and no name of a file."""
    if "-----" in names or "\n" in names or not _short(names):
        raise SettingsError(f"{variable} takes the name of a file, not the key itself")


CHECKS: dict[str, Callable[[str, str], None]] = {
    "KAFKA_BOOTSTRAP_SERVERS": check_brokers,
    "DATABASE_URL": check_database_url,
    "SCHEMA_REGISTRY_URL": check_registry_url,
    "MODEL_STORE": check_store_url,
    "LEADSTREAM_HISTORY": check_store_url,
    "LEADSTREAM_MODEL_SIGNING_KEY": check_file_name,
    "LEADSTREAM_MODEL_VERIFY_KEYS": check_file_name,
}


def masked_url(url: str) -> str:
    """Return a URL, URLs separated by commas, a connection string or a folder, without secrets."""
    if "://" in url:
        return ",".join(_masked(each) for each in _SPLIT.split(url))
    if _is_pairs(url):
        return _PAIR.sub(
            lambda pair: pair[0] if pair[1] in _DISPLAYED else f"{pair[1]}{pair[2]}{MASK}", url
        )
    return url if _is_folder(url) and "=" not in url else MASK


def without_secrets(text: str, url: str) -> str:
    """Return a text, such as a client's error, with the password of this URL masked."""
    found = _match(url) if "://" in url else None
    if found is not None and (password := (found["password"] or "")[1:]):
        for secret in {password, unquote(password)}:
            text = text.replace(secret, MASK)
    return text


def _short(text: str) -> bool:
    return len(text) <= _MAX_CHARACTERS and not _CONTROL.search(text)


def _is_folder(text: str) -> bool:
    """Return whether this is no URL that was mistyped."""
    return _short(text) and "@" not in text.partition(":")[2]


def _is_text(data: bytes) -> bool:
    try:
        return b"\0" not in data and bool(data.decode())
    except UnicodeDecodeError:
        return False


def _match(url: str) -> "re.Match[str] | None":
    """Return the parts of a URL, or None if a password may be in the wrong part."""
    found = _URL.fullmatch(url) if _short(url) and _is_text(unquote_to_bytes(url)) else None
    if found is None or "@" in unquote(found["hosts"]):
        return None
    user = (found["user"] or "") + (found["password"] or "")
    # Only libpq takes these as parts of a password; other clients end the host there.
    if found["scheme"] not in _POSTGRES and (set("?#[]\\") & set(user) or not user.isascii()):
        return None
    ambiguous = found["user"] is not None or ":" in found["hosts"]
    return None if ambiguous and "@" in url[found.end("hosts") :] else found


def _is_postgres(url: str) -> bool:
    found = _match(url)
    if found is None or found["scheme"] not in _POSTGRES or _BAD_ESCAPE.search(url):
        return False
    path, query = unquote(found["path"] or "/")[1:], (found["query"] or "?")[1:]
    pairs = [pair.split("=") for pair in query.split("&")] if query else []
    return (
        found["fragment"] is None
        and not set("@/") & set(path)
        and all(len(pair) == 2 and _is_pair(pair[0], unquote(pair[1])) for pair in pairs)
    )


def _is_pairs(text: str) -> bool:
    if not _short(text) or not _PAIRS.fullmatch(text):
        return False
    return all(_is_pair(key, value) for key, _, value in _PAIR.findall(text))


def _is_pair(key: str, value: str) -> bool:
    """Return whether a parameter is one of libpq, and no part of a password."""
    if key == "port":
        return bool(re.fullmatch(r"'?[0-9,]*'?", value))
    return key in _KNOWN and not (key.startswith("host") and "@" in value)


def _masked(url: str) -> str:
    space = " " * (len(url) - len(url.lstrip()))
    found = _match(url.strip())
    if found is None:
        return space + MASK
    scheme, user = found["scheme"], found["user"]
    named = scheme.rpartition("::")[2] in _NAMED or len(found["password"] or "") > 1
    user_part = "" if user is None else user if named or not user else MASK
    user_part += f":{MASK}" if found["password"] is not None else ""
    user_part += "@" if user is not None else ""
    query = (found["query"] or "")[1:]
    if query:
        pairs = query.split("&") if scheme in _POSTGRES else [""]
        query = "?" + "&".join(_masked_pair(pair) for pair in pairs)
    fragment = f"#{MASK}" if found["fragment"] else ""
    return f"{space}{scheme}://{user_part}{found['hosts']}{found['path'] or ''}{query}{fragment}"


def _masked_pair(pair: str) -> str:
    key, separator, _ = pair.partition("=")
    if not separator:
        return MASK
    return pair if key in _DISPLAYED else f"{key if key in _KNOWN else MASK}={MASK}"
