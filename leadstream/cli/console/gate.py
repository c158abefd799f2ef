"""Who may come in: the browser that opened a link of the terminal, at an address that no other site can have.

1. `Host` must name this machine. A site whose name is made to resolve to 127.0.0.1 (DNS rebinding) sends its own name.
2. A link has a token that is good once; it is exchanged for a cookie that no script reads and no other site sends.
3. A form that changes something carries a token of its own, and comes from this origin.

Secrets are compared in constant time.
"""

import hmac
import secrets
import threading
from collections.abc import Mapping
from urllib.parse import urlsplit

HERE = frozenset({"127.0.0.1", "localhost"})


class Gate:
    """The secrets of one console, new at each start."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._link = secrets.token_urlsafe(32)
        self._session = secrets.token_urlsafe(32)
        self.form_token = secrets.token_urlsafe(32)

    @property
    def link_token(self) -> str:
        """The token of the next link."""
        return self._link

    def spend(self, token: str) -> bool:
        """Whether this is the token of the link, which then is good no more."""
        with self._lock:
            good = _same(token, self._link)
            if good:
                self._link = secrets.token_urlsafe(32)
        return good

    def cookie(self, port: int) -> str:
        """The cookie that lets a browser in, until either of them is closed."""
        return f"{_name(port)}={self._session}; Path=/; HttpOnly; SameSite=Strict"

    def knows(self, headers: Mapping[str, str], port: int) -> bool:
        """Whether a request has the cookie."""
        # Read by hand: others on this machine share the header, and one odd cookie of theirs must not lock us out.
        cookies = (each.strip().partition("=") for each in headers.get("Cookie", "").split(";"))
        return any(
            name == _name(port) and _same(value, self._session) for name, _, value in cookies
        )

    def wrote(self, headers: Mapping[str, str], form: Mapping[str, str]) -> bool:
        """Whether a form is one of ours."""
        origin = headers.get("Origin")
        foreign = origin is not None and urlsplit(origin).netloc != headers.get("Host")
        return not foreign and _same(form.get("form_token", ""), self.form_token)


def is_here(headers: Mapping[str, str]) -> bool:
    """Whether a request was sent to this machine by a name of this machine; a tunnel may have another port."""
    try:
        return urlsplit(f"//{headers.get('Host', '')}").hostname in HERE
    except ValueError:
        return False


def _name(port: int) -> str:
    # Cookies are kept by host, whatever the port: two consoles on one machine must not overwrite each other's.
    return f"leadstream-console-{port}"


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode("utf-8", "surrogateescape"), other.encode())
