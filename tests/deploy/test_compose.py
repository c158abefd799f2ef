"""docker-compose.yml: read by Compose's own loader, and held to the rules that the project relies
on.
"""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from leadstream import __version__
from leadstream.budgets import SHUTDOWN_SECONDS
from leadstream.local import kafka
from leadstream.settings import load_settings
from tests.deploy.tools import DEPLOY, ROOT, output

pytestmark = pytest.mark.deploy

FILE = ROOT / "docker-compose.yml"
OURS = ("prepare", "consumer", "relay", "follow", "history", "learn")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    content = yaml.safe_load(FILE.read_text("utf-8"))
    assert isinstance(content, dict)
    return content


def test_compose_itself_takes_the_file() -> None:
    loaded = yaml.safe_load(output("compose-load", FILE))
    assert set(loaded["services"]) == {
        "kafka",
        "postgres",
        "registry",
        *OURS,
        "prometheus",
        "grafana",
    }


def test_every_image_is_pinned_and_kafka_is_the_one_that_the_tests_run(
    compose: dict[str, Any],
) -> None:
    for service in compose["services"].values():
        _, _, tag = service["image"].partition(":")
        assert tag
        assert tag != "latest"
    assert compose["services"]["kafka"]["image"] == f"apache/kafka:{kafka.VERSION}"


def test_every_process_of_ours_is_of_this_version_without_rights_and_with_time_to_stop(
    compose: dict[str, Any],
) -> None:
    for name in OURS:
        service = compose["services"][name]
        assert service["image"] == f"leadstream:{__version__}"
        assert (service["build"], service["read_only"], service["cap_drop"]) == (".", True, ["ALL"])
        assert int(service["stop_grace_period"].removesuffix("s")) > SHUTDOWN_SECONDS


def test_a_setting_that_leadstream_does_not_know_would_do_nothing(compose: dict[str, Any]) -> None:
    for name in OURS:
        given = compose["services"][name]["environment"]
        settings = load_settings(dict(given), env_file=None)
        known = {field.alias for field in type(settings).model_fields.values()}
        assert set(given) <= known


def mounts(compose: dict[str, Any], service: str) -> dict[str, str]:
    """Where a service has each named volume, with `:ro` if it only reads it."""
    volumes = compose["services"][service].get("volumes", ())
    return dict(volume.split(":", 1) for volume in volumes if re.match(r"\w", volume))


def test_only_what_makes_models_can_write_or_sign_them_or_say_which_key_is_trusted(
    compose: dict[str, Any],
) -> None:
    for name in ("consumer", "follow"):
        found = mounts(compose, name)
        assert (found["models"], found["trust"]) == ("/models:ro", "/trust:ro")
        # Whoever can write models must not be able to replace the key that they are checked with.
        trusted = compose["services"][name]["environment"]["LEADSTREAM_MODEL_VERIFY_KEYS"]
        assert trusted.startswith("/trust/")
    assert [name for name in OURS if "keys" in mounts(compose, name)] == ["prepare", "learn"]
    # What trains by itself signs, and is off until somebody starts it.
    assert compose["services"]["learn"]["profiles"] == ["learn"]
    assert mounts(compose, "learn")["keys"] == "/keys:ro"
    found = mounts(compose, "prepare")
    assert [found[name] for name in ("models", "keys", "trust")] == ["/models", "/keys", "/trust"]


def test_no_service_runs_the_compiled_code_of_another(compose: dict[str, Any]) -> None:
    caches = [
        volume
        for name in OURS
        for volume, place in mounts(compose, name).items()
        if place.startswith("/var/cache/leadstream")
    ]
    assert sorted(caches) == sorted(f"cache-{name}" for name in OURS)


def test_each_service_has_the_password_of_its_own_role_only(compose: dict[str, Any]) -> None:
    def secrets(name: str) -> list[str]:
        return [volume for volume in mounts(compose, name) if volume.startswith("secret-")]

    assert secrets("consumer") == ["secret-consumer"]
    assert secrets("relay") == ["secret-relay"]
    assert secrets("follow") == secrets("history") == secrets("learn") == []
    text = FILE.read_text("utf-8")
    assert "DATABASE_URL:" not in text
    assert not re.search(r"PASSWORD(?!_FILE):", text)
    assert "GF_SECURITY_ADMIN_PASSWORD" not in text
    grafana = compose["services"]["grafana"]["environment"]
    assert grafana["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"


def test_postgres_makes_the_passwords_once(tmp_path: Path) -> None:
    script = (DEPLOY / "postgres.sh").read_text("utf-8").replace("/secrets", str(tmp_path))
    for name in ("prepare", "consumer", "relay"):
        (tmp_path / name).mkdir()
    found = []
    for _ in range(2):
        subprocess.run(
            [
                "sh",
                "-c",
                script.replace("exec docker-entrypoint.sh", "exec echo"),
                "sh",
                "postgres",
            ],
            check=True,
            env={"PATH": os.defpath, "POSTGRES_USER": "leadstream", "POSTGRES_DB": "crm"},
        )
        found.append([path.read_text() for path in sorted(tmp_path.glob("*/*"))])
    assert found[0] == found[1]
    assert len(set(found[0])) == 6
    password = (tmp_path / "relay" / "password").read_text()
    assert re.fullmatch(r"[0-9a-f]{48}", password)
    url = (tmp_path / "relay" / "database-url").read_text()
    assert url == f"postgresql://leadstream_relay:{password}@postgres:5432/crm"
    owner = (tmp_path / "prepare" / "database-url").read_text()
    assert owner.startswith("postgresql://leadstream:")


def test_prometheus_asks_services_that_are_there(compose: dict[str, Any]) -> None:
    scraped = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text("utf-8"))[
        "scrape_configs"
    ]
    targets = [
        target
        for job in scraped
        for static in job["static_configs"]
        for target in static["targets"]
    ]
    assert set(targets) == {f"{name}:8080" for name in OURS[1:]}


def test_a_file_that_is_mounted_is_there(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        for volume in service.get("volumes", ()):
            assert not volume.startswith("./") or (ROOT / volume.split(":")[0]).exists(), volume


def test_no_port_is_open_to_other_machines_and_none_is_used_twice(compose: dict[str, Any]) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", ())]
    published = []
    for port in ports:
        address, outside, inside = port.split(":")
        assert address == "127.0.0.1"
        assert inside.isdigit()
        published.append(outside)
    assert len(set(published)) == len(published)


def test_every_environment_value_is_text_as_compose_wants_it(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        assert all(isinstance(value, str) for value in service.get("environment", {}).values())


def test_every_service_has_a_health_check_and_waits_only_for_what_says_when_it_is_there(
    compose: dict[str, Any],
) -> None:
    services = compose["services"]
    ends = {"prepare": "service_completed_successfully"}
    for name, service in services.items():
        check = service["healthcheck"]
        if name in ends:
            assert check == {"disable": True}
        else:
            assert check["test"][0] == "CMD"
            assert {"interval", "timeout", "retries"} <= set(check)
        for awaited, how in service.get("depends_on", {}).items():
            assert awaited in services
            assert how == {"condition": ends.get(awaited, "service_healthy")}


def test_named_volumes_are_declared(compose: dict[str, Any]) -> None:
    used = {
        volume.split(":")[0]
        for service in compose["services"].values()
        for volume in service.get("volumes", ())
    }
    assert {name for name in used if re.match(r"\w", name)} == set(compose["volumes"])


def test_transactions_work_on_the_single_node_and_both_sides_are_told_an_address_they_reach(
    compose: dict[str, Any],
) -> None:
    kafka_service = compose["services"]["kafka"]
    environment = kafka_service["environment"]
    for topic in ("OFFSETS_TOPIC", "TRANSACTION_STATE_LOG", "SHARE_COORDINATOR_STATE_TOPIC"):
        assert environment[f"KAFKA_{topic}_REPLICATION_FACTOR"] == "1"
    for topic in ("TRANSACTION_STATE_LOG", "SHARE_COORDINATOR_STATE_TOPIC"):
        assert environment[f"KAFKA_{topic}_MIN_ISR"] == "1"
    advertised = dict(
        entry.split("://") for entry in environment["KAFKA_ADVERTISED_LISTENERS"].split(",")
    )
    listeners = dict(entry.split("://") for entry in environment["KAFKA_LISTENERS"].split(","))
    protocols = dict(
        entry.split(":") for entry in environment["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(",")
    )
    assert (
        set(listeners)
        == set(protocols)
        == {*advertised, environment["KAFKA_CONTROLLER_LISTENER_NAMES"]}
    )
    assert kafka_service["ports"] == [f"{advertised['HOST']}{listeners['HOST']}"]
    assert (
        compose["services"]["registry"]["environment"]["APICURIO_KAFKASQL_BOOTSTRAP_SERVERS"]
        == advertised["NETWORK"]
    )
