"""Settings: what is accepted, and the one sentence for what is not."""

import os
from pathlib import Path

import pytest

from leadstream.addresses import masked_url
from leadstream.cli.main import main
from leadstream.errors import SettingsError
from leadstream.kafka.config import consumer_config, producer_config
from leadstream.settings import Delivery, Settings, effective, load_settings, unknown_variables
from producer.publication import transactional_id


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("LEADSTREAM_DELIVERY", "twice", "must be 'exactly-once' or 'at-least-once'"),
        ("LEADSTREAM_BATCH_MAX_RECORDS", "many", "must be a whole number"),
        ("LEADSTREAM_BATCH_MAX_RECORDS", "0", "must be 1 or more"),
        ("LEADSTREAM_BATCH_LINGER_MS", "60000", "must be 500 or less"),
        ("LEADSTREAM_COALESCE", "perhaps", "must be true or false"),
        ("LEADSTREAM_DEAD_LETTER_MAX_RATIO", "nan", "must be"),
        ("LEADSTREAM_DEAD_LETTER_MAX_RATIO", "half", "must be a number"),
        ("LEADSTREAM_HTTP_PORT", "70000", "must be 65535 or less"),
        ("LEADSTREAM_ACADEMIC_YEAR_START", "September", "must look like its default"),
        ("LEADSTREAM_SEASON_MONTHS", "9-12", "must look like its default"),
        ("LEADSTREAM_LOG_LEVEL", "loud", "must be 'debug', 'info', 'warning' or 'error'"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_the_setting_and_the_mend(
    name: str, value: str, remedy: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings({name: value}, None)
    assert str(refused.value).startswith(f"{name}={value}: ")
    assert remedy in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ENABLE_AUTO_COMMIT", "true"),
        ("ENABLE_AUTO_OFFSET_STORE", "true"),
        ("ACKS", "1"),
        ("ENABLE_IDEMPOTENCE", "false"),
        ("ISOLATION_LEVEL", "read_uncommitted"),
        ("TRANSACTIONAL_ID", "mine"),
        ("GROUP_ID", "mine"),
        ("BOOTSTRAP_SERVERS", "elsewhere:9092"),
    ],
)
def test_a_property_that_would_break_delivery_is_refused(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"LEADSTREAM_KAFKA_{name} is refused: .+"):
        load_settings({f"LEADSTREAM_KAFKA_{name}": value}, None)


def test_the_safe_value_of_such_a_property_is_no_reason_to_refuse_the_start() -> None:
    load_settings(
        {"LEADSTREAM_KAFKA_ACKS": "all", "LEADSTREAM_KAFKA_ENABLE_AUTO_COMMIT": "false"}, None
    )


def test_every_librdkafka_property_reaches_both_clients() -> None:
    settings = load_settings(
        {"KAFKA_BOOTSTRAP_SERVERS": "a:1", "LEADSTREAM_KAFKA_SECURITY_PROTOCOL": "SASL_SSL"}, None
    )
    assert consumer_config(settings)["security.protocol"] == "SASL_SSL"
    assert producer_config(settings, transactional=True)["security.protocol"] == "SASL_SSL"


def test_two_producers_of_one_group_must_not_fence_each_other() -> None:
    settings = load_settings({"KAFKA_BOOTSTRAP_SERVERS": "a:1"}, None)
    ids = {producer_config(settings, transactional=True)["transactional.id"] for _ in range(3)}
    assert len(ids) == 3


def test_the_prefix_of_a_consumer_covers_no_id_of_the_relay_the_triage_or_the_translator() -> None:
    settings = load_settings({"KAFKA_BOOTSTRAP_SERVERS": "a:1"}, None)
    prefixes, ids = [], []
    for verb in ("run", "translate"):
        id_ = producer_config(settings, transactional=True, verb=verb)["transactional.id"]
        prefixes.append(id_[:-36])
        ids.append(id_)
    fixed = [transactional_id(settings), f"leadstream-triage-{settings.topics.dead_letter_audit}"]
    assert prefixes == ["leadstream-run-", "leadstream-translate-"]
    for prefix in prefixes:
        assert [id_ for id_ in ids + fixed if id_.startswith(prefix)] == [
            ids[prefixes.index(prefix)]
        ]


def test_two_topics_of_one_name_would_feed_predictions_back_as_changes() -> None:
    with pytest.raises(SettingsError, match=r"two topics are named crm\.lead-changes"):
        load_settings({"LEADSTREAM_TOPIC_LEAD_PREDICTIONS": "crm.lead-changes"}, None)


def test_the_environment_wins_over_the_env_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("LEADSTREAM_REASONS=1\nLEADSTREAM_DELIVERY=at-least-once\n")
    settings = load_settings({"LEADSTREAM_REASONS": "2"}, tmp_path / ".env")
    assert (settings.reasons, settings.delivery) == (2, Delivery.AT_LEAST_ONCE)


def test_an_empty_variable_is_an_unset_one() -> None:
    assert (
        load_settings(
            {"SCHEMA_REGISTRY_URL": "", "LEADSTREAM_REASONS": " "}, None
        ).schema_registry_url
        is None
    )


@pytest.mark.parametrize(
    ("name", "value", "displayed"),
    [
        ("DATABASE_URL", "postgresql://crm:hush@db/crm", "postgresql://crm:********@db/crm"),
        (
            "DATABASE_URL",
            "postgresql://crm:hu?hush@db,other/crm",
            "postgresql://crm:********@db,other/crm",
        ),
        ("DATABASE_URL", "postgresql://:hush@db/crm", "postgresql://:********@db/crm"),
        ("DATABASE_URL", "postgresql://db/crm?user=a&password=hush&port=1", None),
        (
            "DATABASE_URL",
            "host=db password='hush \\' hush' dbname=crm",
            "host=db password=******** dbname=crm",
        ),
        ("DATABASE_URL", "host=db sslpassword = hush", None),
        ("SCHEMA_REGISTRY_URL", "https://key:hush@registry", None),
        (
            "SCHEMA_REGISTRY_URL",
            "http://a:hush@r1, http://b:hush@r2",
            "http://a:********@r1, http://b:********@r2",
        ),
        ("MODEL_STORE", "sftp://ds:hush@files/models", "sftp://ds:********@files/models"),
        ("LEADSTREAM_ID_HASH_KEY", "hush", "********"),
        ("LEADSTREAM_KAFKA_SASL_PASSWORD", "hush", "********"),
        ("LEADSTREAM_KAFKA_SASL_PASSWD", "hush", "********"),
        ("LEADSTREAM_KAFKA_SASL_PASWORT", "hush", "********"),
        ("LEADSTREAM_KAFKA_SASL_PWD", "hush", "********"),
        ("LEADSTREAM_KAFKA_API_CREDS", "hush", "********"),
        ("SCHEMA_REGISTRY_URL", "https://hush@registry", "https://********@registry"),
        ("MODEL_STORE", "s3://key:hush@bucket/a?secret=hush", None),
        ("LEADSTREAM_KAFKA_SSL_KEY_PEM", "hush", "********"),
        ("LEADSTREAM_KAFKA_SSL_KEY_PASSWORD", "hush", "********"),
        ("LEADSTREAM_KAFKA_SASL_OAUTHBEARER_CONFIG", "principal=hush scope=x", "********"),
        ("LEADSTREAM_KAFKA_SASL_OAUTHBEARER_CLIENT_SECRET", "hush", "********"),
        ("LEADSTREAM_KAFKA_SASL_OAUTHBEARER_CLIENT_CREDENTIALS_CLIENT_SECRET", "hush", "********"),
        ("LEADSTREAM_KAFKA_SASL_OAUTHBEARER_ASSERTION_PRIVATE_KEY_PASSPHRASE", "hush", "********"),
    ],
)
def test_no_secret_is_ever_shown(name: str, value: str, displayed: str | None) -> None:
    settings = load_settings({name: value}, None)
    assert "hush" not in str(effective(settings)) + repr(settings)
    assert displayed in (None, effective(settings)[name])


@pytest.mark.parametrize(
    "url",
    [
        "postgresql:///crm?host=/run",
        "http://a:8081,http://b:8081",
        "s3://bucket/models",
        "./store",
        "host=db user=a",
    ],
)
def test_what_holds_no_secret_is_shown_as_it_is(url: str) -> None:
    assert masked_url(url) == url


def test_a_property_that_is_no_secret_is_shown_as_it_is() -> None:
    given = {
        "LEADSTREAM_KAFKA_SASL_USERNAME": "crm",
        "LEADSTREAM_KAFKA_SSL_CA_LOCATION": "ca.pem",
        "LEADSTREAM_KAFKA_SASL_OAUTHBEARER_TOKEN_ENDPOINT_URL": "https://login/token",
    }
    assert given.items() <= effective(load_settings(given, None)).items()


@pytest.mark.parametrize("verb", ["config", "doctor", "run", "relay", "sink", "follow"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "postgresql://crm:hush@hush@db/crm"),
        ("DATABASE_URL", "postgresql://crm:12/hush@db/crm"),
        ("SCHEMA_REGISTRY_URL", "http://crm:hush@hush@registry"),
        ("MODEL_STORE", "sftp://crm:hush@hush@files/models"),
        ("KAFKA_BOOTSTRAP_SERVERS", "crm:hush@broker:9092"),
        ("LEADSTREAM_MODEL_SIGNING_KEY", "-----BEGIN PRIVATE KEY-----hush"),
    ],
)
def test_an_address_that_hides_its_password_badly_ends_every_verb_and_is_not_printed(
    verb: str,
    name: str,
    value: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")
    monkeypatch.setenv(name, value)
    assert main([verb]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"leadstream: {name} ")
    assert "hush" not in err


def test_the_file_that_was_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / ".env").write_text("LEADSTREAM_REASONS=1\n")
    monkeypatch.chdir(tmp_path)
    assert main(["config"]) == 0
    assert f"leadstream: read {tmp_path / '.env'}\n" in capsys.readouterr().err


def test_every_setting_is_either_shown_or_known_as_a_secret() -> None:
    given = {field.alias: None for field in Settings.model_fields.values() if field.alias}
    masked = [name for name in given if name.endswith("_HASH_KEY")]
    environment = {"LEADSTREAM_ID_HASH_KEY": "hush"}
    assert [
        name
        for name, value in effective(load_settings(environment, None)).items()
        if value == "********"
    ] == masked


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PLUGIN_LIBRARY_PATHS", "/tmp/plugin.so"),
        ("plugin_library_paths", "/tmp/plugin.so"),
        ("SSL_ENGINE_LOCATION", "/tmp/engine.so"),
        ("SSL_PROVIDERS", "legacy"),
        ("SASL_KERBEROS_KINIT_CMD", "touch /tmp/owned"),
        ("SASL_KERBEROS_PRINCIPAL", "crm; touch /tmp/owned"),
    ],
)
def test_a_property_that_runs_code_is_refused_from_the_environment_and_the_file(
    tmp_path: Path, name: str, value: str
) -> None:
    variable = f"LEADSTREAM_KAFKA_{name}"
    (tmp_path / ".env").write_text(f"{variable}='{value}'\n")
    for environment, file in (({variable: value}, None), ({}, tmp_path / ".env")):
        with pytest.raises(SettingsError, match=f"{variable} is refused: .+"):
            load_settings(environment, file)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SASL_OAUTHBEARER_CONFIG", "hush"),
        ("SASL_OAUTHBEARER_CONFIG", "principal=crm hush"),
        ("SASL_OAUTHBEARER_CONFIG", "principal=crm secret=hush"),
        ("SASL_OAUTHBEARER_TOKEN_ENDPOINT_URL", "https://crm:hush@login/token"),
        ("SASL_OAUTHBEARER_TOKEN_ENDPOINT_URL", "https://login/token?key=hush"),
        ("SASL_OAUTHBEARER_TOKEN_ENDPOINT_URL", "hush"),
    ],
)
def test_a_property_that_the_client_would_repeat_in_an_error_is_refused(
    name: str, value: str
) -> None:
    with pytest.raises(SettingsError, match=f"LEADSTREAM_KAFKA_{name} is refused: ") as refused:
        load_settings({f"LEADSTREAM_KAFKA_{name}": value}, None)
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666, 0o664])
def test_an_env_file_that_others_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    file = tmp_path / ".env"
    file.write_text("LEADSTREAM_REASONS=1\n")
    file.chmod(mode)
    with pytest.raises(SettingsError, match=r"\.env may be written by others; run `chmod go-w`"):
        load_settings({}, file)
    file.chmod(0o644)
    assert load_settings({}, file).env_file == str(file)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_an_env_file_of_another_account_is_refused(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("LEADSTREAM_REASONS=1\n")
    os.chown(file, 12345, -1)
    with pytest.raises(SettingsError, match="belongs to another account"):
        load_settings({}, file)


def test_an_env_file_that_cannot_be_read_as_text_is_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    for content in ("REASONS=ä".encode("utf-16"), "A=ä".encode("latin-1"), b"A=\0", b"A" * 2**21):
        file.write_bytes(content)
        with pytest.raises(SettingsError, match=r"settings file .*\.env "):
            load_settings({}, file)
    file.write_bytes("\ufeffLEADSTREAM_REASONS=1".encode())
    assert load_settings({}, file).reasons == 1
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(SettingsError, match="is no regular file"):
        load_settings({}, file)
    file.unlink()
    file.mkdir()
    assert load_settings({}, file).env_file is None


def test_a_mistyped_variable_is_named_with_the_one_that_was_meant() -> None:
    environment = {
        "LEADSTREAM_BATCH_MAX_RECORD": "1",
        "LEADSTREAM_KAFKA_X": "1",
        "LEADSTREAM_GROUP_ID": "g",
    }
    assert unknown_variables(environment) == [
        "LEADSTREAM_BATCH_MAX_RECORD is not a setting; did you mean LEADSTREAM_BATCH_MAX_RECORDS?"
    ]


def test_a_setting_that_a_verb_needs_is_asked_for_by_name() -> None:
    with pytest.raises(SettingsError, match="MODEL_STORE is not set: name the folder"):
        load_settings({}, None).need("MODEL_STORE", "name the folder")
