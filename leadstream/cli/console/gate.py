"""The gate of the console: it admits the browser that opened a link of the terminal.

1. `Host` must be a random name under `.localhost`, which browsers take for this machine. A site
   whose name resolves to 127.0.0.1 (DNS rebinding) sends its own name. Browsers keep cookies by
   host and not by port: no other program on 127.0.0.1 gets this cookie.
2. A link has a token that works once. The gate exchanges it for a cookie that no script reads and
   no other site sends.
3. A form that changes something carries a token of its own, and comes from this origin.

The gate compares secrets in constant time.
"""

import hmac
import secrets
import threading
from collections.abc import Mapping
from urllib.parse import urlsplit


class Gate:
    """The secrets of one console, new at each start."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.host = f"leadstream-{secrets.token_hex(16)}.localhost"
        self._link = secrets.token_urlsafe(32)
        self._session = secrets.token_urlsafe(32)
        self.form_token = secrets.token_urlsafe(32)

    @property
    def link_token(self) -> str:
        """Return the token of the next link."""
        return self._link

    def is_here(self, headers: Mapping[str, str]) -> bool:
        """Return whether a request names this console; a tunnel may use another port."""
        try:
            host = urlsplit(f"//{headers.get('Host', '')}").hostname or ""
        except ValueError:
            return False
        return _same(host, self.host)

    def spend(self, token: str) -> bool:
        """Return whether this is the token of the link; it works only once."""
        with self._lock:
            good = _same(token, self._link)
            if good:
                self._link = secrets.token_urlsafe(32)
        return good

    def cookie(self, port: int) -> str:
        """Return the cookie of a session, until the browser or the console closes."""
        return f"{_name(port)}={self._session}; Path=/; HttpOnly; SameSite=Strict"

    def knows(self, headers: Mapping[str, str], port: int) -> bool:
        """Return whether a request has the cookie."""
        # Parsed by hand: an odd cookie of another local program must not break the sign-in.
        cookies = (each.strip().partition("=") for each in headers.get("Cookie", "").split(";"))
        return any(
            name == _name(port) and _same(value, self._session) for name, _, value in cookies
        )

    def wrote(self, headers: Mapping[str, str], form: Mapping[str, str]) -> bool:
        """Return whether a form comes from this console."""
        origin = headers.get("Origin")
        foreign = origin is not None and urlsplit(origin).netloc != headers.get("Host")
        return not foreign and _same(form.get("form_token", ""), self.form_token)


def _name(port: int) -> str:
    return f"leadstream-console-{port}"


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode("utf-8", "surrogateescape"), other.encode())
