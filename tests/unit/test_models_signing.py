import json
import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from leadstream.errors import SettingsError, UserError
from leadstream.settings import Settings, load_settings
from models.registry.signing import Trust, ensure_key, key_id, load_trust, make_key
from models.registry.store import Store
from models.registry.versions import ModelRegistry, open_registry
from models.serve.refused import Refused
from tests.trained_models import KEY, TRUST, trained

ALLOWS = Trust(unsigned=True)
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(32))
STRANGER = Trust(OTHER, {key_id(OTHER.public_key()): OTHER.public_key()})


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def settings(**values: object) -> Settings:
    return load_settings(
        {f"LEADSTREAM_MODEL_{name}": str(value) for name, value in values.items()}, None
    )


def test_what_was_signed_verifies_and_says_by_whom(tmp_path: Path) -> None:
    registry = ModelRegistry(str(tmp_path), TRUST)
    version = registry.publish(trained())
    assert registry.verify(version).version == version
    assert registry.signed_by(version) == key_id(KEY.public_key())


@pytest.mark.parametrize("mode", [0o666, 0o644, 0o606, 0o660, 0o604])
def test_a_private_key_that_others_may_use_signs_nothing(home: Path, mode: int) -> None:
    home.mkdir()
    make_key(home / "key.pem")
    (home / "key.pem").chmod(mode)
    with pytest.raises(SettingsError, match=rf"is open to other accounts \(mode {mode:04o}\)"):
        load_trust(settings(SIGNING_KEY=home / "key.pem"), signs=True)
    (home / "key.pem").chmod(0o440)  # a secret of Kubernetes
    assert load_trust(settings(SIGNING_KEY=home / "key.pem"), signs=True).signing_key


def test_a_public_key_that_others_may_replace_is_not_trusted(home: Path) -> None:
    home.mkdir()
    make_key(home / "key.pem")
    (home / "key.pem.pub").chmod(0o646)
    with pytest.raises(SettingsError, match="is open to other accounts"):
        load_trust(settings(VERIFY_KEYS=home / "key.pem.pub"))


@pytest.mark.parametrize("byte", [0, 100, -2])
def test_one_changed_byte_of_a_signed_manifest_is_refused(byte: int) -> None:
    manifest = b'{"artifact": {"sha256": "00"}}' * 10
    signature = TRUST.sign(manifest)
    changed = bytearray(manifest)
    changed[byte] ^= 1
    assert TRUST.check(manifest, signature)
    with pytest.raises(Refused, match="is not that of its manifest"):
        TRUST.check(bytes(changed), signature)


def test_a_model_that_a_stranger_signed_again_is_refused(tmp_path: Path) -> None:
    url = str(tmp_path)
    version = ModelRegistry(url, STRANGER).publish(trained())
    assert ModelRegistry(url, STRANGER).verify(version)
    with pytest.raises(Refused, match="which LEADSTREAM_MODEL_VERIFY_KEYS does not name"):
        ModelRegistry(url, TRUST).verify(version)


def test_a_strangers_signature_under_a_trusted_name_is_refused() -> None:
    stated = json.loads(STRANGER.sign(b"manifest") or b"")
    stated["key"] = key_id(KEY.public_key())
    with pytest.raises(Refused, match="is not that of its manifest"):
        TRUST.check(b"manifest", json.dumps(stated).encode())


def test_a_model_without_a_signature_serves_only_where_the_settings_say_so(tmp_path: Path) -> None:
    url = str(tmp_path)
    version = ModelRegistry(url, ALLOWS).publish(trained())
    assert ModelRegistry(url, ALLOWS).verify(version)
    assert ModelRegistry(url, ALLOWS).signed_by(version) is None
    with pytest.raises(Refused, match="it is not signed"):
        ModelRegistry(url, TRUST).verify(version)


def test_a_signature_that_was_cut_off_does_not_make_a_model_unsigned_and_allowed(
    tmp_path: Path,
) -> None:
    registry = ModelRegistry(str(tmp_path), TRUST)
    version = registry.publish(trained())
    os.unlink(tmp_path / "versions" / version / "manifest.sig")
    with pytest.raises(Refused, match="it is not signed"):
        registry.verify(version)


def test_a_bad_signature_is_refused_also_where_none_is_needed() -> None:
    with pytest.raises(Refused, match="does not name"):
        ALLOWS.check(b"manifest", STRANGER.sign(b"manifest"))


@pytest.mark.parametrize(
    "signature",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"key": 1}',
        b'{"key": [], "signature": ""}',
        b"[" * 100_000,
        b"\xff",
    ],
)
def test_a_signature_that_is_none_is_refused_not_a_crash(signature: bytes) -> None:
    with pytest.raises(Refused, match="its signature"):
        TRUST.check(b"manifest", signature)


def test_a_registry_that_was_given_no_keys_publishes_and_verifies_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no key to sign the model with"):
        ModelRegistry(str(tmp_path)).publish(trained())
    assert list(tmp_path.iterdir()) == []
    version = ModelRegistry(str(tmp_path), ALLOWS).publish(trained())
    with pytest.raises(Refused):
        ModelRegistry(str(tmp_path)).verify(version)


def test_a_newcomer_signs_with_a_key_of_his_own_and_his_consumer_trusts_it(
    home: Path, tmp_path: Path
) -> None:
    stated: list[str] = []
    mine = load_settings({"MODEL_STORE": str(tmp_path / "store")}, None)
    version = open_registry(mine, signs=True, say=stated.append).publish(trained())
    key = home / ".config/leadstream/model-key.pem"
    assert stated == [f"made a key to sign models with: {key}; consumers elsewhere need {key}.pub"]
    assert key.stat().st_mode & 0o777 == 0o600
    assert open_registry(mine).verify(version)
    assert load_trust(mine).signing_key is None  # a consumer never reads the private key
    assert ensure_key(mine) is None


def test_where_unsigned_models_are_allowed_no_key_is_made(home: Path) -> None:
    assert ensure_key(settings(UNSIGNED="allow")) is None
    assert load_trust(settings(UNSIGNED="allow"), signs=True) == ALLOWS
    assert not home.exists()


def test_keys_can_be_changed_while_the_old_models_still_serve(tmp_path: Path) -> None:
    old, new, store = tmp_path / "old.pem", tmp_path / "new.pem", str(tmp_path / "store")
    ids = make_key(old), make_key(new)
    versions = [
        ModelRegistry(store, load_trust(settings(SIGNING_KEY=k), signs=True)).publish(trained())
        for k in (old, new)
    ]
    both = ModelRegistry(store, load_trust(settings(VERIFY_KEYS=f"{old}.pub, {new}.pub")))
    assert tuple(map(both.signed_by, versions)) == ids
    only_new = ModelRegistry(store, load_trust(settings(VERIFY_KEYS=f"{new}.pub")))
    assert only_new.signed_by(versions[1]) == ids[1]
    with pytest.raises(Refused):
        only_new.signed_by(versions[0])


def test_a_key_is_never_written_over(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    make_key(path)
    before = path.read_bytes()
    with pytest.raises(SettingsError, match=r"no key can be made at .* exists"):
        make_key(path)
    assert path.read_bytes() == before


def test_a_key_that_is_named_and_cannot_be_read_is_one_sentence_with_the_setting(
    tmp_path: Path,
) -> None:
    junk, other = tmp_path / "junk.pem", tmp_path / "x25519.pem"
    junk.write_bytes(b"not a key")
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    other.write_bytes(
        X25519PrivateKey.generate().private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
    )
    for path in (junk, other):
        path.chmod(0o600)
    for path, sentence in (
        (tmp_path / "absent.pem", "cannot be read .* keygen"),
        (junk, "not a private key in PEM"),
        (other, "not an Ed25519 key"),
    ):
        with pytest.raises(SettingsError, match=rf"LEADSTREAM_MODEL_SIGNING_KEY: .*{sentence}"):
            load_trust(settings(SIGNING_KEY=path), signs=True)
    for path in (tmp_path / "absent.pub", junk, other):
        with pytest.raises(SettingsError, match="LEADSTREAM_MODEL_VERIFY_KEYS: "):
            load_trust(settings(VERIFY_KEYS=path))


@pytest.mark.slow
def test_a_swapped_manifest_of_another_signed_version_is_refused(tmp_path: Path) -> None:
    registry = ModelRegistry(str(tmp_path), TRUST)
    first, second = registry.publish(trained(1)), registry.publish(trained(2))
    store = Store(str(tmp_path))
    for name in ("manifest.json", "manifest.sig", "model.joblib"):
        store.replace(f"versions/{second}/{name}", store.read(f"versions/{first}/{name}") or b"")
    with pytest.raises(Refused, match="not that of this version"):
        registry.verify(second)


def test_a_consumer_without_a_home_directory_needs_no_signing_key(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.mkdir()
    make_key(home / "key.pem")
    keys = str(home / "key.pem.pub")

    def homeless(_path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", homeless)
    assert load_trust(settings(UNSIGNED="allow")).unsigned
    assert load_trust(settings()).trusted == {}
    monkeypatch.undo()
    monkeypatch.setattr("models.registry.signing.DEFAULT_KEY", Path("~nobody-here/key.pem"))
    assert len(load_trust(settings(VERIFY_KEYS=keys)).trusted) == 1
    with pytest.raises(SettingsError, match="no home directory"):
        load_trust(settings(VERIFY_KEYS=keys), signs=True)
