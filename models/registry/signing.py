"""Signatures: who made a model, by Ed25519 over the manifest, which holds the artifact's sha256.

A digest next to a file is replaced with the file; a signature needs the key. Training holds the
private key and each consumer the public key. The model store holds neither.
"""

import base64
import binascii
import hashlib
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from leadstream.errors import SettingsError, UserError
from leadstream.settings import Settings, Unsigned
from models.serve.refused import Refused

DEFAULT_KEY = Path("~/.config/leadstream/model-key.pem")
PUBLIC = ".pub"
_SIGNS, _TRUSTS = "LEADSTREAM_MODEL_SIGNING_KEY", "LEADSTREAM_MODEL_VERIFY_KEYS"


@dataclass(frozen=True, slots=True)
class Trust:
    """The keys of a process.

    `signing_key` signs, `trusted` are the accepted public keys by `key_id`, and `unsigned` accepts
    models without a signature.
    """

    signing_key: Ed25519PrivateKey | None = None
    trusted: Mapping[str, Ed25519PublicKey] = field(default_factory=dict)
    unsigned: bool = False

    def require_key(self) -> None:
        """Raise UserError if models must be signed and there is no key."""
        if self.signing_key is None and not self.unsigned:
            raise UserError(f"there is no key to sign the model with: {_SIGNS} names none")

    def sign(self, manifest: bytes) -> bytes | None:
        """Return the signature of a manifest's bytes as JSON; None without a key."""
        if self.signing_key is None:
            return None
        signature = base64.b64encode(self.signing_key.sign(manifest)).decode()
        content = {
            "algorithm": "Ed25519",
            "key": key_id(self.signing_key.public_key()),
            "signature": signature,
        }
        return json.dumps(content, indent=2).encode() + b"\n"

    def check(self, manifest: bytes, signature: bytes | None) -> str | None:
        """Return the id of the trusted key that signed these bytes; None if unsigned and allowed.

        Raises Refused otherwise. A signature that exists must be valid, even if none is required.
        """
        if signature is None:
            if not self.unsigned:
                raise Refused("it is not signed, and LEADSTREAM_MODEL_UNSIGNED does not allow that")
            return None
        try:
            content = json.loads(signature)
            name, raw = content["key"], base64.b64decode(content["signature"], validate=True)
            key = self.trusted.get(name)
        except (ValueError, KeyError, TypeError, RecursionError, binascii.Error) as error:
            raise Refused("its signature cannot be read") from error
        if key is None:
            raise Refused(f"it is signed with the key {name}, which {_TRUSTS} does not name")
        try:
            key.verify(raw, manifest)
        except InvalidSignature as error:
            raise Refused(f"its signature by the key {name} is not that of its manifest") from error
        return str(name)


NO_TRUST = Trust()


def load_trust(settings: Settings, *, signs: bool = False) -> Trust:
    """Return the keys that the settings trust, with the private key if this process `signs`.

    Raises SettingsError for a named key that cannot be read.
    """
    unsigned = settings.model_unsigned is Unsigned.ALLOW
    path = key_path(settings) if signs else _path_if_any(settings)
    signing_key = (
        _private_key(path)
        if signs and path and (settings.model_signing_key or path.exists())
        else None
    )
    if settings.model_verify_keys:
        names = [name.strip() for name in settings.model_verify_keys.split(",")]
        keys = [_public_key(Path(name).expanduser(), _TRUSTS) for name in names if name]
    elif signing_key is not None:
        keys = [signing_key.public_key()]
    else:
        public = path.with_name(path.name + PUBLIC) if path else None
        keys = [_public_key(public, _SIGNS)] if public and public.exists() else []
    return Trust(signing_key, {key_id(key): key for key in keys}, unsigned)


def ensure_key(settings: Settings) -> Path | None:
    """Make the default key pair if one is needed and none is named; return a new path or None."""
    path = key_path(settings)
    if settings.model_signing_key or path.exists() or settings.model_unsigned is Unsigned.ALLOW:
        return None
    make_key(path)
    return path


def make_key(path: Path) -> str:
    """Write a new private key with the public key next to it; return the key's id.

    The private key is PEM, PKCS 8, mode 600. Raises SettingsError if the file exists or cannot be
    written.
    """
    key = Ed25519PrivateKey.generate()
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    private = key.private_bytes(pem, pkcs8, serialization.NoEncryption())
    public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(private)
        path.with_name(path.name + PUBLIC).write_bytes(public)
    except OSError as error:
        raise SettingsError(f"{_SIGNS}: no key can be made at {path} ({error.strerror})") from error
    return key_id(key.public_key())


def key_id(key: Ed25519PublicKey) -> str:
    """Return the first 16 hex digits of the sha256 of the key's 32 bytes."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]


def key_path(settings: Settings) -> Path:
    """Return the path of the private key, whether or not it exists."""
    path = Path(settings.model_signing_key) if settings.model_signing_key else DEFAULT_KEY
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise SettingsError(f"{_SIGNS} must be set, for this user has no home directory") from error


def _path_if_any(settings: Settings) -> Path | None:
    """Return the path of the private key, which only names the public one; None without a home."""
    try:
        return key_path(settings)
    except SettingsError:
        return None


def _private_key(path: Path) -> Ed25519PrivateKey:
    _check_mode(path, _SIGNS, stat.S_IRWXO | stat.S_IWGRP, "chmod 600")
    try:
        key = serialization.load_pem_private_key(_bytes(path, _SIGNS), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SettingsError(
            f"{_SIGNS}: {path} is not a private key in PEM without a password"
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise SettingsError(
            f"{_SIGNS}: {path} is not an Ed25519 key; `leadstream models keygen` makes one"
        )
    return key


def _public_key(path: Path, variable: str) -> Ed25519PublicKey:
    _check_mode(path, variable, stat.S_IWOTH, "chmod o-w")
    try:
        key = serialization.load_pem_public_key(_bytes(path, variable))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SettingsError(f"{variable}: {path} is not a public key in PEM") from error
    if not isinstance(key, Ed25519PublicKey):
        raise SettingsError(f"{variable}: {path} is not an Ed25519 key")
    return key


def _check_mode(path: Path, variable: str, refused: int, fix: str) -> None:
    """Raise SettingsError for a key that others can use or replace."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return  # reading it says why
    if mode & refused:
        raise SettingsError(
            f"{variable}: {path} is open to other accounts (mode {stat.S_IMODE(mode):04o}): make a "
            f"new key if others could have used it, or run `{fix}` on it"
        )


def _bytes(path: Path, variable: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        made = "; `leadstream models keygen` makes one" if variable == _SIGNS else ""
        raise SettingsError(
            f"{variable}: {path} cannot be read ({error.strerror}){made}"
        ) from error
