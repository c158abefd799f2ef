"""The registry: versions of a model and the aliases that point to them.

    versions/<semver>/model.joblib     the artifact, written first
    versions/<semver>/manifest.sig     the signature of the manifest, if the registry has a key
    versions/<semver>/manifest.json    written last: a version without one does not exist
    aliases/<alias>.json               the version in service, and those before it
    aliases/log/<alias>-<ms>-<id>.json one object for each move, never changed
    store.json                         the name of this store, which its manifests repeat

The store is a folder or any fsspec URL. A version never changes once written. An alias moves by
replacing one object.
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

from leadstream.addresses import masked_url
from leadstream.errors import UserError, error_text
from leadstream.lead_fields import END_TIME_MS
from leadstream.settings import Settings
from models.registry.gate import GateRefused, objections
from models.registry.signing import NO_TRUST, Trust, ensure_key, load_trust
from models.registry.store import DOCUMENT, Store
from models.serve import artifact
from models.serve.artifact import FILE, WRONG, Trained
from models.serve.pickles import MAX_PACKED
from models.serve.refused import Refused

if TYPE_CHECKING:
    from models.serve.artifact import Trained
    from models.serve.scorer import Model

CHAMPION = "champion"
UNREADABLE = "unreadable"
FIRST_VERSION = "1.0.0"
_MAX_FIELD = 500
_MOVE_FIELDS: dict[str, Any] = {
    "action": str,
    "alias": str,
    "from": str | None,
    "to": str | None,
    "at": int,
    "by": str,
}
# How many versions back a rollback can go.
_REMEMBERED = 100
_SEMVER = re.compile(r"(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})", re.ASCII)
_ALIAS = re.compile(r"[a-z][a-z0-9-]{0,62}")


@dataclass(frozen=True, slots=True)
class Alias:
    """The target of an alias.

    `previous` are earlier versions, newest last; `moved_at` is in ms UTC.
    """

    version: str
    previous: tuple[str, ...]
    moved_at: int


def open_registry(
    settings: Settings, *, signs: bool = False, say: Callable[[str], None] = lambda _sentence: None
) -> "ModelRegistry":
    """Return the registry at MODEL_STORE with the keys of the settings.

    The private key is loaded only if this process `signs`. If it needs a key and has none, this
    makes one and passes a sentence to `say`. Raises SettingsError for a key that cannot be read
    or made.
    """
    url = settings.need(
        "MODEL_STORE", "name the folder or fsspec URL where `leadstream train` keeps models"
    )
    if signs and (made := ensure_key(settings)):
        say(f"made a key to sign models with: {made}; consumers elsewhere need {made}.pub")
    return ModelRegistry(url, load_trust(settings, signs=signs))


class ModelRegistry:
    """Publishes, finds and verifies versions.

    - `trust`: the keys to sign with and to accept. Without it nothing is published or verified.
    - `clock_ms`: the wall clock that dates moves, in ms UTC.
    - `user`: the author of moves in the log; the user and the machine by default.

    Raises Transient("model store") if the store does not answer.
    """

    def __init__(
        self,
        store_url: str,
        trust: Trust = NO_TRUST,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        user: str | None = None,
    ) -> None:
        self.url = store_url
        self._trust = trust
        self._store = Store(store_url)
        self._clock_ms = clock_ms
        self._author = user or _current_user()

    def publish(self, trained: Trained, patch_of: str | None = None) -> str:
        """Write a trained model as the next minor version and return that version; aliases stay.

        With `patch_of` it becomes the next patch of that version: the same trees, calibrated
        differently. Raises Refused if the model does not pass its own checks after a round trip,
        and UserError if it must be signed and there is no key. In both cases nothing is written.
        """
        self.check_writable()
        payload = artifact.dump(trained.artifact)
        manifest = {
            **trained.manifest,
            "version": FIRST_VERSION,
            "artifact": artifact.describe(payload),
        }
        artifact.load(payload, manifest)
        manifest["store"] = self._own_name() or self._named()
        version = self._claim(payload, patch_of)
        signed = _json({**manifest, "version": version})
        if signature := self._trust.sign(signed):
            self._store.replace(f"versions/{version}/manifest.sig", signature)
        self._store.replace(f"versions/{version}/manifest.json", signed)
        return version

    def check_writable(self) -> None:
        """Raise UserError if no version could be published: no key, or no name of the store."""
        self._trust.require_key()
        if self._own_name() is None:
            self._check_unnamed()

    def _check_unnamed(self) -> None:
        """Raise Refused if versions repeat a name that the store has lost.

        A new name would keep all of them out of service for ever.
        """
        for version in self.versions():
            try:
                named = self.show(version).get("store")
            except Refused:
                continue
            if named is not None:
                raise Refused(
                    f"store.json is missing in {masked_url(self.url)}, and version {version} "
                    f"names the store {named!s:.40}: restore it"
                )

    def versions(self) -> list[str]:
        """Return all published versions, oldest first."""
        return [v for v in self._claimed() if "manifest.json" in self._store.names(f"versions/{v}")]

    def show(self, version: str) -> dict[str, Any]:
        """Return the manifest of a version without a check of its signature.

        Raises UserError if there is no such version, Refused if the manifest cannot be read.
        """
        return self._manifest(version)[1]

    def signed_by(self, version: str) -> str | None:
        """Return the id of the trusted key that signed a version; None if unsigned and allowed.

        Raises Refused if its signature keeps it out of service.
        """
        signed, manifest = self._manifest(version)
        key = self._signed_by(version, signed)
        self._check_store(version, manifest)
        return key

    def verify(self, version: str) -> "Model":
        """Return the model of a version after its signature and the checks of `serve.artifact`.

        Raises Refused with the check that failed.
        """
        return self._verified(version)[0]

    def artifact(self, version: str) -> dict[str, Any]:
        """Return the dictionary that a version was published as, to make a patch of it.

        The checks are those of `verify`.
        """
        return artifact.unpack(self._verified(version)[1], scikit=True)

    def _verified(self, version: str) -> tuple["Model", bytes]:
        signed, manifest = self._manifest(version)
        self._signed_by(version, signed)
        self._check_store(version, manifest)
        payload = self._store.read(f"versions/{version}/{FILE}", MAX_PACKED)
        if payload is None:
            raise Refused(f"model version {version}: its artifact is missing")
        try:
            return artifact.load(payload, manifest), payload
        except Refused as refused:
            raise Refused(f"model version {version}: {refused}") from refused
        except Exception as error:  # whatever a file causes keeps its version out of service
            raise Refused(
                f"model version {version}: it cannot be used ({type(error).__name__})"
            ) from error

    def _manifest(self, version: str) -> tuple[bytes, dict[str, Any]]:
        """Return the bytes of a manifest, which are what is signed, and their content."""
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
            raise Refused(
                f"model version {version}: its manifest is not JSON ({error_text(error)})"
            ) from error
        if not isinstance(manifest, dict) or manifest.get("version") != version:
            raise Refused(f"model version {version}: its manifest is not that of this version")
        return raw, manifest

    def _signed_by(self, version: str, signed: bytes) -> str | None:
        try:
            return self._trust.check(signed, self._store.read(f"versions/{version}/manifest.sig"))
        except Refused as refused:
            raise Refused(f"model version {version}: {refused}") from refused

    def _check_store(self, version: str, manifest: Mapping[str, Any]) -> None:
        """Raise Refused for a version of another store: a signature alone binds no store."""
        named = manifest.get("store")  # those of 0.2 and before name none
        if named is not None and named != self._own_name():
            raise Refused(
                f"model version {version}: it was published to another store (its manifest names "
                f"{named!s:.40}); publish it here, or copy that store as a whole"
            )

    def _own_name(self) -> str | None:
        raw = self._store.read("store.json")
        try:
            return None if raw is None else str(json.loads(raw)["name"])
        except (ValueError, KeyError, TypeError, RecursionError):
            raise Refused(
                f"store.json in {masked_url(self.url)} is not that of a model store: restore it"
            ) from None

    def _named(self) -> str:
        """Give this store a name, unless another process just did, and return the name."""
        self._store.create("store.json", _json({"name": uuid4().hex}))
        return str(self._own_name())

    def alias(self, name: str = CHAMPION) -> Alias | None:
        """Return where an alias points, or None if it was never set.

        Raises Refused if it cannot be read.
        """
        raw = self._store.read(f"aliases/{_alias(name)}.json")
        if raw is None:
            return None
        try:
            return _alias_in(json.loads(raw))
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise Refused(
                f"the alias {name} in {masked_url(self.url)} cannot be read "
                f"({type(error).__name__}); promote a version again"
            ) from error

    def resolve(self, alias: str = CHAMPION) -> str | None:
        """Return the version that an alias points to, or None."""
        found = self.alias(alias)
        return found.version if found else None

    def aliases(self) -> dict[str, str]:
        """Return every alias that can be read, with its version."""
        found = {}
        for name in self._alias_names():
            try:
                alias = self.alias(name)
            except Refused:
                continue  # `problems` names it
            if alias:
                found[name] = alias.version
        return found

    def _alias_names(self) -> list[str]:
        names = [n[:-5] for n in self._store.names("aliases") if n.endswith(".json")]
        return [name for name in names if _ALIAS.fullmatch(name)]

    def problems(self) -> list[str]:
        """Return what is wrong with versions, aliases and the name of the store, a sentence each.

        `log` shows moves that cannot be read.
        """
        found = [] if (problem := self._problem_of_name()) is None else [problem]
        found += filter(None, map(self.problem_of_version, self._claimed()))
        there = self.versions()
        for name in self._alias_names():
            try:
                alias = self.alias(name)
            except Refused as refused:
                found.append(str(refused))
                continue
            if alias and alias.version not in there:
                found.append(self._dangling(name, alias.version))
        return found

    def _problem_of_name(self) -> str | None:
        try:
            if self._own_name() is None:
                self._check_unnamed()
        except Refused as refused:
            return str(refused)
        return None

    def problem_of_version(self, version: str) -> str | None:
        """Return what keeps a version out of service, a sentence; `verify` also reads its trees."""
        folder = f"versions/{version}"
        objects = self._store.names(folder)
        for name, why in (
            ("manifest.json", "the version was not published to its end, or not fully restored"),
            (FILE, "restore it, or promote another version"),
        ):
            if name not in objects:
                return f"{folder} has no {name}: {why}"
        try:
            self.signed_by(version)
            stated = self.show(version)["artifact"]["size"]
        except UserError as refused:
            return str(refused)
        except WRONG:
            return f"model version {version}: its manifest cannot be understood"
        if (size := self._store.size(f"{folder}/{FILE}")) != stated:
            return (
                f"model version {version}: its artifact has size {size}, the manifest says {stated}"
            )
        return None

    def _dangling(self, alias: str, version: str) -> str:
        return (
            f"the alias {alias} points to {version}, which is not in {masked_url(self.url)}: "
            "restore that version, or promote another one"
        )

    def target(self, alias: str) -> str:
        """Return the version that an alias points to.

        Raises UserError for an alias that is not set, cannot be read, or points to no version.
        """
        version = self.resolve(alias)
        if version is None:
            raise UserError(
                f"the alias {alias} points to no version; `leadstream models list` lists the "
                "versions"
            )
        if version not in self.versions():
            raise UserError(self._dangling(alias, version))
        return version

    def promote(self, version: str, alias: str = CHAMPION, *, force: bool = False) -> str | None:
        """Point the alias to a version that verifies; return the version it pointed to before.

        A champion must also pass the gate. With `force` the objections of the gate are only logged.
        Raises GateRefused, Refused or UserError otherwise, and the alias does not move.
        """
        candidate = self.verify(version)
        try:
            present = self.alias(alias)
        except Refused:
            present = None  # setting an unreadable alias repairs it
        if present is not None and present.version == version:
            return version
        forced = self._objections(candidate, present) if alias == CHAMPION else []
        if forced and not force:
            raise GateRefused(version, forced)
        previous = (*present.previous, present.version) if present else ()
        self._move("promote", alias, present, Alias(version, previous, self._clock_ms()), forced)
        return present.version if present else None

    def _objections(self, candidate: "Model", present: Alias | None) -> list[str]:
        try:
            champion = self.verify(present.version) if present else None
        except UserError:
            champion = None  # a champion that cannot serve cannot be compared
        return objections(candidate, champion)

    def rollback(self, alias: str = CHAMPION) -> str:
        """Point the alias back to the version before the present one, and return that version.

        Raises UserError if there is no earlier version, and Refused if that one does not verify;
        then the alias does not move.
        """
        present = self.alias(alias)
        if present is None or not present.previous:
            raise UserError(f"the alias {alias} has no earlier version to roll back to")
        version = present.previous[-1]
        self.verify(version)
        self._move(
            "rollback", alias, present, Alias(version, present.previous[:-1], self._clock_ms())
        )
        return version

    def retire(self, alias: str) -> str:
        """Remove an alias and return the version that it pointed to; its moves stay in the log.

        Raises UserError for the champion, which every consumer needs to start, and for an unset
        alias.
        """
        if alias == CHAMPION:
            raise UserError(
                "the champion cannot be retired, because no consumer starts without one: promote "
                "another version"
            )
        try:
            present = self.alias(alias)
        except Refused:
            version = None  # removing an unreadable alias repairs it
        else:
            if present is None:
                raise UserError(
                    f"the alias {alias} points to no version; `leadstream models list` shows what "
                    "there is"
                )
            version = present.version
        self._note("retire", alias, version, None, self._clock_ms())
        self._store.remove(f"aliases/{alias}.json")
        return version or UNREADABLE

    def log(self) -> list[dict[str, Any]]:
        """Return every move of every alias, oldest first."""
        moves = [self._move_in(name) for name in self._store.names("aliases/log")]
        return sorted(moves, key=lambda move: int(move["at"]))

    def _move_in(self, name: str) -> dict[str, Any]:
        """Return the move in an object of the log; one that cannot be read is named as such."""
        try:
            move = json.loads(self._store.read(f"aliases/log/{name}") or b"")
            if (
                all(
                    isinstance(move[field], kinds) and len(str(move[field])) < _MAX_FIELD
                    for field, kinds in _MOVE_FIELDS.items()
                )
                and 0 <= move["at"] < END_TIME_MS
            ):
                return dict(move)
        except (Refused, ValueError, LookupError, TypeError, RecursionError):
            pass
        unreadable = {"action": UNREADABLE, "alias": name, "from": None, "to": None}
        return {**unreadable, "at": 0, "by": "an object of the log that cannot be read"}

    def unlogged(self, alias: str = CHAMPION) -> str | None:
        """Return what differs between an alias and the log of its moves; None if they agree."""
        present = self.alias(alias)
        if present is None:
            return None
        moves = [move for move in self.log() if move["alias"] == alias]
        last = moves[-1] if moves else None
        # Two moves within a millisecond have no order.
        latest = [(move["to"], move["at"]) for move in moves if last and move["at"] == last["at"]]
        if (present.version, present.moved_at) in latest:
            return None
        logged = f"the last move in its log is to {last['to']}" if last else "its log is empty"
        return (
            f"the alias {alias} points to {present.version}, but {logged}: somebody moved it by "
            f"hand, or a move broke off; check the version, then move it with `leadstream models "
            f"promote`"
        )

    def _claim(self, payload: bytes, patch_of: str | None) -> str:
        claimed = self._claimed()
        after = _next_patch if patch_of else _next_minor
        version = after(patch_of or claimed[-1]) if claimed else FIRST_VERSION
        # The process that creates the artifact owns the version, so two publishers get two.
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
        # The log first: it must hold every move, even one that fails afterwards.
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
            "by": self._author,
        }
        entry |= {name: value for name, value in more.items() if value}
        self._store.create(f"aliases/log/{_alias(alias)}-{at}-{uuid4().hex[:8]}.json", _json(entry))


def _alias_in(found: Any) -> Alias:
    """Return the target in the object of an alias; raises what a wrong object causes."""
    alias = Alias(str(found["version"]), tuple(map(str, found["previous"])), int(found["moved_at"]))
    if not all(map(_SEMVER.fullmatch, (alias.version, *alias.previous))):
        raise ValueError("it names no version")
    return alias


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


def _current_user() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # the user of a container may have no name
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=2, sort_keys=True, allow_nan=False).encode() + b"\n"
