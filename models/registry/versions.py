"""The versions of a model and the aliases that point to them, in a folder or at any fsspec URL.

    versions/<semver>/model.joblib     the artifact, written first
    versions/<semver>/manifest.sig     the signature of the manifest's bytes, where the registry has a key
    versions/<semver>/manifest.json    written last: a version without one does not exist
    aliases/<alias>.json               the version in service, and those before it
    aliases/log/<alias>-<ms>-<id>.json one object for each move, never changed

Versions never change once written. An alias moves by replacing one object.
"""

import getpass
import json
import os
import re
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from leadstream.errors import UserError
from leadstream.settings import Settings, masked_url
from models.registry.signing import NOBODY, Trust, ensure_key, trust_of
from models.registry.store import DOCUMENT, Store
from models.serve import artifact
from models.serve.artifact import FILE
from models.serve.pickles import MOST_PACKED
from models.serve.refused import Refused

if TYPE_CHECKING:
    from models.serve.scorer import Model
    from models.train.training import Trained

CHAMPION = "champion"
FIRST_VERSION = "1.0.0"
# How many versions back a rollback can go.
_REMEMBERED = 100
_SEMVER = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")
_ALIAS = re.compile(r"[a-z][a-z0-9-]{0,62}")


@dataclass(frozen=True, slots=True)
class Alias:
    """Where an alias points: `previous` are the versions before, newest last; `moved_at` is in ms UTC."""

    version: str
    previous: tuple[str, ...]
    moved_at: int


def open_registry(
    settings: Settings, *, signs: bool = False, say: Callable[[str], None] = lambda _sentence: None
) -> "ModelRegistry":
    """The registry at MODEL_STORE with the keys of the settings, the private one only where this process `signs`.

    A process that signs and needs a key of its own makes one, and says so. Raises SettingsError for a key that cannot
    be read or made.
    """
    url = settings.need(
        "MODEL_STORE", "name the folder or fsspec URL where `leadstream train` keeps models"
    )
    if signs and (made := ensure_key(settings)):
        say(f"made a key to sign models with: {made}; consumers elsewhere need {made}.pub")
    return ModelRegistry(url, trust_of(settings, signs=signs))


class ModelRegistry:
    """Publishes, finds and verifies versions. Raises Transient("model store") where the store does not answer.

    `trust` says what is signed with and whose signatures count: without it nothing is published and nothing verifies.
    `clock_ms` is the wall clock that moves are dated by, `who` moves them: the user and the machine, unless told.
    """

    def __init__(
        self,
        store_url: str,
        trust: Trust = NOBODY,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        who: str | None = None,
    ) -> None:
        self.url = store_url
        self._trust = trust
        self._store = Store(store_url)
        self._clock_ms = clock_ms
        self._who = who or _user()

    def publish(self, trained: "Trained", patch_of: str | None = None) -> str:
        """Write a trained model as the next minor version and return that version; the aliases stay where they are.

        With `patch_of` it is the next patch of that version: the same trees, said otherwise. Raises Refused, with
        nothing written, if the model does not pass its own checks after a round trip, and UserError if it must be
        signed and there is no key.
        """
        self._trust.require_key()
        payload = artifact.dump(trained.artifact)
        manifest = {
            **trained.manifest,
            "version": FIRST_VERSION,
            "artifact": artifact.describe(payload),
        }
        artifact.load(payload, manifest)
        version = self._claim(payload, patch_of)
        signed = _json({**manifest, "version": version})
        if signature := self._trust.sign(signed):
            self._store.replace(f"versions/{version}/manifest.sig", signature)
        self._store.replace(f"versions/{version}/manifest.json", signed)
        return version

    def versions(self) -> list[str]:
        """All published versions, oldest first."""
        return [v for v in self._claimed() if "manifest.json" in self._store.names(f"versions/{v}")]

    def show(self, version: str) -> dict[str, Any]:
        """The manifest of a version; raises UserError if there is no such version, Refused if it cannot be read.

        Whether it is signed is not asked here.
        """
        return self._manifest(version)[1]

    def signed_by(self, version: str) -> str | None:
        """The id of the trusted key that signed a version's manifest, None where it is unsigned and may be.

        Raises Refused where it may not serve for its signature.
        """
        return self._signed_by(version, self._manifest(version)[0])

    def verify(self, version: str) -> "Model":
        """The model of a version after its signature and every check of models/serve/artifact.py.

        Raises Refused with the check that failed.
        """
        return self._verified(version)[0]

    def artifact(self, version: str) -> dict[str, Any]:
        """The dictionary that a version was published as, after the same checks: to make a patch of it."""
        return artifact.unpack(self._verified(version)[1], scikit=True)

    def _verified(self, version: str) -> tuple["Model", bytes]:
        signed, manifest = self._manifest(version)
        self._signed_by(version, signed)
        payload = self._store.read(f"versions/{version}/{FILE}", MOST_PACKED)
        if payload is None:
            raise Refused(f"model version {version}: its artifact is missing")
        try:
            return artifact.load(payload, manifest), payload
        except Refused as refused:
            raise Refused(f"model version {version}: {refused}") from refused

    def _manifest(self, version: str) -> tuple[bytes, dict[str, Any]]:
        """The manifest's bytes, which are what is signed, and what they say."""
        raw = (
            self._store.read(f"versions/{version}/manifest.json")
            if _SEMVER.fullmatch(version)
            else None
        )
        if raw is None:
            there = ", ".join(self.versions()) or "none yet"
            raise UserError(
                f"there is no model version {version} in {masked_url(self.url)}; there are: {there}"
            )
        if len(raw) > DOCUMENT:
            raise Refused(f"model version {version}: its manifest has more than {DOCUMENT:,} bytes")
        try:
            manifest = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise Refused(f"model version {version}: its manifest is not JSON ({error})") from error
        if not isinstance(manifest, dict) or manifest.get("version") != version:
            raise Refused(f"model version {version}: its manifest is not that of this version")
        return raw, manifest

    def _signed_by(self, version: str, signed: bytes) -> str | None:
        try:
            return self._trust.check(signed, self._store.read(f"versions/{version}/manifest.sig"))
        except Refused as refused:
            raise Refused(f"model version {version}: {refused}") from refused

    def alias(self, name: str = CHAMPION) -> Alias | None:
        """Where an alias points, or None if it was never set; raises Refused if its object cannot be read."""
        raw = self._store.read(f"aliases/{_alias(name)}.json")
        if raw is None:
            return None
        try:
            found = json.loads(raw)
            return Alias(
                str(found["version"]), tuple(map(str, found["previous"])), int(found["moved_at"])
            )
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise Refused(
                f"the alias {name} in {masked_url(self.url)} cannot be read ({error}); promote a version again"
            ) from error

    def resolve(self, alias: str = CHAMPION) -> str | None:
        """The version that an alias points to, or None."""
        found = self.alias(alias)
        return found.version if found else None

    def aliases(self) -> dict[str, str]:
        """Every alias with its version."""
        names = [
            n.removesuffix(".json") for n in self._store.names("aliases") if n.endswith(".json")
        ]
        return {
            name: found.version
            for name in names
            if _ALIAS.fullmatch(name) and (found := self.alias(name))
        }

    def promote(self, version: str, alias: str = CHAMPION, *, force: bool = False) -> str | None:
        """Point the alias to a version that verifies, and return the one it pointed to before.

        A champion must pass the gate, too; with `force` what the gate objects to is only written into the log. Raises
        GateRefused, Refused or UserError, with the alias unmoved, otherwise.
        """
        candidate = self.verify(version)
        try:
            present = self.alias(alias)
        except Refused:
            present = None  # an alias that cannot be read is mended by setting it
        if present is not None and present.version == version:
            return version
        forced = self._objections(candidate, present) if alias == CHAMPION else []
        if forced and not force:
            from models.registry.gate import GateRefused  # noqa: PLC0415  # brings pandas

            raise GateRefused(version, forced)
        previous = (*present.previous, present.version) if present else ()
        self._move("promote", alias, present, Alias(version, previous, self._clock_ms()), forced)
        return present.version if present else None

    def _objections(self, candidate: "Model", present: Alias | None) -> list[str]:
        from models.registry.gate import objections  # noqa: PLC0415  # brings pandas

        try:
            champion = self.verify(present.version) if present else None
        except UserError:
            champion = None  # one that could not serve again is nothing to be compared with
        return objections(candidate, champion)

    def rollback(self, alias: str = CHAMPION) -> str:
        """Point the alias back to the version before the present one, and return that version.

        Raises UserError if there is none before it.
        """
        present = self.alias(alias)
        if present is None or not present.previous:
            raise UserError(f"the alias {alias} has no earlier version to roll back to")
        version = present.previous[-1]
        self.show(version)
        self._move(
            "rollback", alias, present, Alias(version, present.previous[:-1], self._clock_ms())
        )
        return version

    def retire(self, alias: str) -> str:
        """Remove an alias, and return the version that it pointed to; its moves stay in the log.

        Raises UserError for the champion, without whom no consumer starts, and where the alias was never set.
        """
        if alias == CHAMPION:
            raise UserError(
                "the champion cannot be retired, for no consumer starts without one: promote another version"
            )
        present = self.alias(alias)
        if present is None:
            raise UserError(
                f"the alias {alias} points to no version; `leadstream models list` shows what there is"
            )
        self._note("retire", alias, present.version, None, self._clock_ms())
        self._store.remove(f"aliases/{alias}.json")
        return present.version

    def log(self) -> list[dict[str, Any]]:
        """Every move of every alias, oldest first."""
        raw = [self._store.read(f"aliases/log/{name}") for name in self._store.names("aliases/log")]
        moves: list[dict[str, Any]] = [json.loads(entry) for entry in raw if entry]
        return sorted(moves, key=lambda move: move["at"])

    def _claim(self, payload: bytes, patch_of: str | None) -> str:
        claimed = self._claimed()
        after = _next_patch if patch_of else _next_minor
        version = after(patch_of or claimed[-1]) if claimed else FIRST_VERSION
        # Whoever creates the artifact owns the version; two publishers at once get two versions.
        while not self._store.create(f"versions/{version}/{FILE}", payload):
            version = after(version)
        return version

    def _claimed(self) -> list[str]:
        return sorted(filter(_SEMVER.fullmatch, self._store.names("versions")), key=_parts)

    def _move(
        self,
        action: str,
        alias: str,
        before: Alias | None,
        after: Alias,
        forced: Sequence[str] = (),
    ) -> None:
        # The log first: it must not miss a move, even one that then fails.
        self._note(
            action,
            alias,
            before.version if before else None,
            after.version,
            after.moved_at,
            forced=list(forced),
        )
        state = {
            "version": after.version,
            "previous": after.previous[-_REMEMBERED:],
            "moved_at": after.moved_at,
        }
        self._store.replace(f"aliases/{alias}.json", _json(state))

    def _note(
        self, action: str, alias: str, before: str | None, after: str | None, at: int, **more: Any
    ) -> None:
        entry = {
            "action": action,
            "alias": alias,
            "from": before,
            "to": after,
            "at": at,
            "by": self._who,
        }
        entry |= {name: value for name, value in more.items() if value}
        self._store.create(f"aliases/log/{_alias(alias)}-{at}-{uuid4().hex[:8]}.json", _json(entry))


def _alias(name: str) -> str:
    if not _ALIAS.fullmatch(name):
        raise UserError(f"{name!r} is not an alias: use lower-case letters, digits and dashes")
    return name


def _parts(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def _next_minor(version: str) -> str:
    major, minor, _ = _parts(version)
    return f"{major}.{minor + 1}.0"


def _next_patch(version: str) -> str:
    major, minor, patch = _parts(version)
    return f"{major}.{minor}.{patch + 1}"


def _user() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=2, sort_keys=True, allow_nan=False).encode() + b"\n"
