"""docker-compose.yml: read by Compose's own loader, and held to the rules that the project relies
on.
"""

import re
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
OURS = ("prepare", "consumer", "relay", "follow")


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


def test_only_what_makes_models_can_write_or_sign_them(compose: dict[str, Any]) -> None:
    for name in OURS[1:]:
        volumes = compose["services"][name]["volumes"]
        assert "models:/models:ro" in volumes
        assert not [volume for volume in volumes if volume.startswith("keys:")]
    assert {"models:/models", "keys:/keys"} <= set(compose["services"]["prepare"]["volumes"])


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
