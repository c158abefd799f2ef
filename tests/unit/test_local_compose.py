"""docker-compose.yml: checked by Compose itself where it is installed, and by the rules that the project relies on."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from local import kafka

FILE = Path(__file__).parents[2] / "docker-compose.yml"
SERVICE_KEYS = {"image", "ports", "environment", "volumes", "healthcheck", "depends_on"}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    content = yaml.safe_load(FILE.read_text("utf-8"))
    assert isinstance(content, dict)
    return content


def test_compose_accepts_the_file_where_it_is_installed() -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("the docker command has no compose plugin here")
    ran = subprocess.run([docker, "compose", "--file", FILE, "config", "--quiet"], capture_output=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, b"")


def test_it_has_the_three_services_and_no_key_that_compose_would_refuse(compose: dict[str, Any]) -> None:
    assert set(compose) == {"name", "services", "volumes"}
    assert set(compose["services"]) == {"kafka", "postgres", "registry"}
    for service in compose["services"].values():
        assert set(service) <= SERVICE_KEYS


def test_every_image_is_pinned_and_kafka_is_the_one_that_the_tests_run(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        _, _, tag = service["image"].partition(":")
        assert tag
        assert tag != "latest"
    assert compose["services"]["kafka"]["image"] == f"apache/kafka:{kafka.VERSION}"


def test_no_port_is_open_to_other_machines_and_none_is_used_twice(compose: dict[str, Any]) -> None:
    ports = [port for service in compose["services"].values() for port in service["ports"]]
    published = []
    for port in ports:
        address, outside, inside = port.split(":")
        assert address == "127.0.0.1"
        assert inside.isdigit()
        published.append(outside)
    assert len(set(published)) == len(published)


def test_every_environment_value_is_text_as_compose_wants_it(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        assert all(isinstance(value, str) for value in service["environment"].values())


def test_every_service_has_a_health_check_and_waits_only_for_healthy_ones(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for service in services.values():
        check = service["healthcheck"]
        assert check["test"][0] == "CMD"
        assert {"interval", "timeout", "retries"} <= set(check)
        for name, awaited in service.get("depends_on", {}).items():
            assert name in services
            assert awaited == {"condition": "service_healthy"}


def test_named_volumes_are_declared(compose: dict[str, Any]) -> None:
    used = {volume.split(":")[0] for service in compose["services"].values() for volume in service.get("volumes", ())}
    assert used == set(compose["volumes"])


def test_transactions_work_on_the_single_node_and_both_sides_are_told_an_address_they_reach(
    compose: dict[str, Any],
) -> None:
    kafka_service = compose["services"]["kafka"]
    environment = kafka_service["environment"]
    for topic in ("OFFSETS_TOPIC", "TRANSACTION_STATE_LOG", "SHARE_COORDINATOR_STATE_TOPIC"):
        assert environment[f"KAFKA_{topic}_REPLICATION_FACTOR"] == "1"
    for topic in ("TRANSACTION_STATE_LOG", "SHARE_COORDINATOR_STATE_TOPIC"):
        assert environment[f"KAFKA_{topic}_MIN_ISR"] == "1"
    advertised = dict(entry.split("://") for entry in environment["KAFKA_ADVERTISED_LISTENERS"].split(","))
    listeners = dict(entry.split("://") for entry in environment["KAFKA_LISTENERS"].split(","))
    protocols = dict(entry.split(":") for entry in environment["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(","))
    assert set(listeners) == set(protocols) == {*advertised, environment["KAFKA_CONTROLLER_LISTENER_NAMES"]}
    assert kafka_service["ports"] == [f"{advertised['HOST']}{listeners['HOST']}"]
    assert (
        compose["services"]["registry"]["environment"]["APICURIO_KAFKASQL_BOOTSTRAP_SERVERS"] == advertised["NETWORK"]
    )
