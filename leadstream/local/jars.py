"""Jars of Maven Central, or of its mirror, by Python alone: each has a pinned SHA-256."""

import hashlib
import urllib.error
import urllib.request
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.resources import files
from pathlib import Path

from leadstream.errors import UserError, error_text

CENTRAL = "https://repo.maven.apache.org/maven2"
# The variable of Maven's own wrapper for a mirror of Central.
MIRROR = "MVNW_REPOURL"
_MATCHES_CENTRAL = {"*", "central", "external:*"}
_MAX_BYTES = 64 * 1024 * 1024
_TRIES = 3
_THREADS = 6
_SILENCE_SECONDS = 30.0


def pinned(name: str) -> dict[str, str]:
    """Return the SHA-256 of each path in a list of this package: lines as of `sha256sum`."""
    lines = files("leadstream.local").joinpath(name).read_text("utf-8").splitlines()
    return {path: digest for digest, path in (line.split() for line in lines)}


def fetch_jars_of(name: str, folder: Path, environ: Mapping[str, str]) -> None:
    """Download all jars of a list into a new folder.

    Raises UserError if a jar cannot be had, or is not the pinned one.
    """
    folder.mkdir()
    repository = repository_url(environ)
    with ThreadPoolExecutor(_THREADS) as pool:
        for _ in pool.map(partial(_fetch, repository, folder), pinned(name).items()):
            pass


def repository_url(environ: Mapping[str, str]) -> str:
    """Return the URL of Maven Central, or of the mirror that Maven would ask.

    That is MVNW_REPOURL, or the first mirror of Central in ~/.m2/settings.xml.
    """
    if given := environ.get(MIRROR, "").strip():
        return _checked(given, MIRROR)
    path = Path(environ.get("HOME") or Path.home()) / ".m2" / "settings.xml"
    if not path.is_file():
        return CENTRAL
    try:
        found = next(_mirrors(path), None)
    except (ET.ParseError, OSError) as error:
        raise UserError(f"{path} cannot be read: {error_text(error)}") from None
    return CENTRAL if found is None else _checked(found, str(path))


def _mirrors(path: Path) -> Iterator[str]:
    """Yield the URLs of the mirrors of Central, in order."""
    for element in ET.parse(path).iter():  # noqa: S314  (the user's own settings)
        if _name(element) != "mirror":
            continue
        parts = {_name(part): (part.text or "").strip() for part in element}
        patterns = {each.strip() for each in parts.get("mirrorOf", "").split(",")}
        if patterns & _MATCHES_CENTRAL and "!central" not in patterns and parts.get("url"):
            yield parts["url"]


def _name(element: ET.Element) -> str:
    return element.tag.rpartition("}")[2]


def _checked(url: str, where: str) -> str:
    if not url.startswith(("https://", "http://")):
        raise UserError(f"{where}: the mirror of Maven Central must be an http or https URL")
    return url.rstrip("/")


def _fetch(repository: str, folder: Path, jar: tuple[str, str]) -> None:
    path, digest = jar
    name = path.rpartition("/")[2]
    content = _download(repository, path)
    if hashlib.sha256(content).hexdigest() != digest:
        raise UserError(
            f"{name} is not the file with the pinned SHA-256: the repository or a proxy in between "
            f"changes it; set {MIRROR} to another mirror of Maven Central"
        )
    (folder / name).write_bytes(content)


def _download(repository: str, path: str) -> bytes:
    for attempt in range(_TRIES):
        try:
            with urllib.request.urlopen(f"{repository}/{path}", timeout=_SILENCE_SECONDS) as answer:  # noqa: S310
                content: bytes = answer.read(_MAX_BYTES)
                return content
        except (OSError, urllib.error.URLError) as error:
            refused = isinstance(error, urllib.error.HTTPError) and error.code < 500
            if refused or attempt == _TRIES - 1:
                raise UserError(
                    f"{path.rpartition('/')[2]} could not be fetched from Maven Central or its "
                    f"mirror ({error_text(error)}): check the network and the proxy, set {MIRROR} "
                    "to a mirror, or install Maven (mvn)"
                ) from None
    raise AssertionError  # the last attempt returns or raises
