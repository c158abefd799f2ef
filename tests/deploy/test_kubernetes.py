"""The manifests: by Kubernetes' own schemas, and against what the consumer really does."""

import re
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml  # type: ignore[import-untyped]

from consumer.status import HEALTHY_SECONDS
from leadstream.settings import load_settings
from leadstream.stopping import SHUTDOWN_SECONDS
from leadstream.topics import Topics
from tests.deploy.tools import DEPLOY, ROOT

FOLDER = DEPLOY / "kubernetes"
KUBERNETES = ("1.30", "1.37")
OTHERS = {"ScaledObject", "PodMonitor", "Kustomization"}


def manifests() -> list[dict[str, Any]]:
    return [one for file in sorted(FOLDER.glob("*.yaml")) for one in yaml.safe_load_all(file.read_text("utf-8"))]


def of_kind(kind: str) -> dict[str, Any]:
    [found] = [one for one in manifests() if one["kind"] == kind]
    return found


def configuration() -> dict[str, str]:
    """What becomes environment variables."""
    data: dict[str, str] = next(one for one in manifests() if one["kind"] == "ConfigMap")["data"]
    return data


def pod() -> dict[str, Any]:
    spec: dict[str, Any] = of_kind("Deployment")["spec"]["template"]["spec"]
    return spec


@pytest.mark.parametrize("version", KUBERNETES)
def test_a_field_that_kubernetes_does_not_know_is_refused_or_silently_dropped(version: str) -> None:
    for manifest in manifests():
        if manifest["kind"] not in OTHERS:
            kubernetes_validate.validate(manifest, version, strict=True)


def test_the_kustomization_has_every_file_and_no_other() -> None:
    resources = of_kind("Kustomization")["resources"]
    assert sorted(resources) == sorted(f.name for f in FOLDER.glob("*.yaml") if f.name != "kustomization.yaml")


def test_a_process_that_is_killed_before_its_deadline_leaves_a_batch_to_do_again() -> None:
    assert pod()["terminationGracePeriodSeconds"] >= SHUTDOWN_SECONDS + 10


def test_probes_ask_what_is_served_and_give_a_start_its_time() -> None:
    [container] = pod()["containers"]
    probes = {name: container[f"{name}Probe"] for name in ("startup", "liveness", "readiness")}
    assert {name: probe["httpGet"]["path"] for name, probe in probes.items()} == {
        "startup": "/healthz",
        "liveness": "/healthz",
        "readiness": "/readyz",
    }
    assert all(probe["httpGet"]["port"] == container["ports"][0]["name"] for probe in probes.values())
    assert probes["startup"]["periodSeconds"] * probes["startup"]["failureThreshold"] >= HEALTHY_SECONDS
    assert container["ports"][0]["containerPort"] == load_settings({}, env_file=None).http_port


def test_the_pod_meets_the_restricted_profile_that_its_namespace_enforces() -> None:
    assert of_kind("Namespace")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    security, [container] = pod()["securityContext"], pod()["containers"]
    assert (security["runAsNonRoot"], security["seccompProfile"]["type"]) == (True, "RuntimeDefault")
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert f"USER {security['runAsUser']}:{security['runAsGroup']}" in (ROOT / "Dockerfile").read_text("utf-8")


def test_a_secret_in_a_manifest_is_a_secret_no_more() -> None:
    assert not [one for one in manifests() if one["kind"] == "Secret"]
    [container] = pod()["containers"]
    assert {"secretRef": {"name": "leadstream"}} in container["envFrom"]
    given = configuration()
    assert not re.search(r"PASSWORD|SECRET|DATABASE_URL|HASH_KEY", " ".join(given))
    settings = load_settings(dict(given), env_file=None)
    assert set(given) <= {field.alias for field in type(settings).model_fields.values()}


def test_what_scales_and_what_disrupts_mean_the_consumer() -> None:
    deployment, budget, scaled = of_kind("Deployment"), of_kind("PodDisruptionBudget"), of_kind("ScaledObject")
    labels = deployment["spec"]["selector"]["matchLabels"]
    assert deployment["spec"]["template"]["metadata"]["labels"] == labels
    for other in (budget["spec"], of_kind("PodMonitor")["spec"]):
        assert other["selector"]["matchLabels"] == labels
    assert "replicas" not in deployment["spec"]
    assert scaled["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert scaled["spec"]["minReplicaCount"] > budget["spec"]["maxUnavailable"]


def test_the_scaler_asks_for_the_lag_of_this_group_and_topic_and_not_beyond_the_partitions() -> None:
    default = load_settings({}, env_file=None)
    [trigger] = of_kind("ScaledObject")["spec"]["triggers"]
    given = configuration()
    assert trigger["metadata"]["consumerGroup"] == default.group_id
    assert trigger["metadata"]["topic"] == Topics().lead_changes
    assert trigger["metadata"]["bootstrapServers"] == given["KAFKA_BOOTSTRAP_SERVERS"]
    operations = (ROOT / "docs/operations.md").read_text("utf-8")
    partitions = re.search(r"topics create --partitions (\d+)", operations)
    assert partitions
    assert of_kind("ScaledObject")["spec"]["maxReplicaCount"] == int(partitions[1])


def test_the_command_of_the_docs_makes_a_resource_of_the_alerts(tmp_path: Path) -> None:
    operations = (ROOT / "docs/operations.md").read_text("utf-8")
    [command] = re.findall(r"^\$ (\{ printf .* \}) \| kubectl", operations, re.MULTILINE)
    made = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    resource = yaml.safe_load(made)
    assert (resource["apiVersion"], resource["kind"]) == ("monitoring.coreos.com/v1", "PrometheusRule")
    assert resource["spec"] == yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text("utf-8"))
