"""The manifests: by Kubernetes' own schemas and those of the operators, and against what the
processes really do.
"""

import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml  # type: ignore[import-untyped]

from leadstream.budgets import HEALTH_SECONDS, SHUTDOWN_SECONDS
from leadstream.kafka.topics import Topics
from leadstream.settings import load_settings
from tests.deploy.tools import DEPLOY, ROOT, output, schema_of

pytestmark = pytest.mark.deploy

FOLDER = DEPLOY / "kubernetes"
KUBERNETES = ("1.30", "1.37")
OPERATORS = {
    "ScaledObject": "keda.sh_scaledobjects.yaml",
    "PodMonitor": "monitoring.coreos.com_podmonitors.yaml",
}
VERBS = (
    "consumer",
    "relay",
    "follow",
    "history",
    "learn",
)  # what Deployments run, each a component of its own


def manifests() -> list[dict[str, Any]]:
    return [
        one
        for file in sorted(FOLDER.glob("*.yaml"))
        for one in yaml.safe_load_all(file.read_text("utf-8"))
    ]


def of_kind(kind: str) -> dict[str, Any]:
    [found] = [one for one in manifests() if one["kind"] == kind]
    return found


def deployment(component: str) -> dict[str, Any]:
    [found] = [
        one
        for one in manifests()
        if one["kind"] == "Deployment"
        and one["metadata"]["labels"]["app.kubernetes.io/component"] == component
    ]
    return found


def configuration() -> dict[str, str]:
    """What becomes environment variables."""
    data: dict[str, str] = next(one for one in manifests() if one["kind"] == "ConfigMap")["data"]
    return data


def pod(component: str) -> dict[str, Any]:
    spec: dict[str, Any] = deployment(component)["spec"]["template"]["spec"]
    return spec


@pytest.mark.parametrize("version", KUBERNETES)
def test_a_field_that_kubernetes_does_not_know_is_refused_or_silently_dropped(version: str) -> None:
    for manifest in manifests():
        if manifest["kind"] not in {*OPERATORS, "Kustomization"}:
            kubernetes_validate.validate(manifest, version, strict=True)


def closed(schema: Any) -> Any:
    """A schema of an operator, with each field that it does not list refused."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    known = {name: closed(each) for name, each in schema.items()}
    if "properties" in known and not known.get("x-kubernetes-preserve-unknown-fields"):
        known.setdefault("additionalProperties", False)
    return known


@pytest.mark.parametrize("kind", OPERATORS)
def test_a_field_that_an_operator_does_not_know_is_dropped_without_a_word(kind: str) -> None:
    resource = of_kind(kind)
    schema = closed(schema_of(OPERATORS[kind], resource["apiVersion"].split("/")[1]))
    jsonschema.validate(resource, schema)
    resource["spec"]["unheard"] = 1
    with pytest.raises(jsonschema.ValidationError, match="unheard"):
        jsonschema.validate(resource, schema)


def test_kustomize_makes_of_the_files_what_they_say() -> None:
    made = list(yaml.safe_load_all(output("kustomize", "build", DEPLOY / "kubernetes")))
    assert sorted((one["kind"], one["metadata"]["name"]) for one in made) == sorted(
        (one["kind"], one["metadata"]["name"])
        for one in manifests()
        if one["kind"] != "Kustomization"
    )
    images = [
        container["image"]
        for one in made
        if one["kind"] == "Deployment"
        for container in one["spec"]["template"]["spec"]["containers"]
    ]
    [asked] = of_kind("Kustomization")["images"]
    assert images == [f"{asked['newName']}:{asked['newTag']}"] * len(VERBS)
    assert {one["metadata"].get("namespace") for one in made if one["kind"] != "Namespace"} == {
        "leadstream"
    }


def test_the_kustomization_has_every_file_and_no_other() -> None:
    resources = of_kind("Kustomization")["resources"]
    assert sorted(resources) == sorted(
        f.name for f in FOLDER.glob("*.yaml") if f.name != "kustomization.yaml"
    )


@pytest.mark.parametrize("component", VERBS)
def test_a_process_that_is_killed_before_its_deadline_leaves_a_batch_to_do_again(
    component: str,
) -> None:
    assert pod(component)["terminationGracePeriodSeconds"] >= SHUTDOWN_SECONDS + 10


@pytest.mark.parametrize("component", VERBS)
def test_probes_ask_what_is_served_and_give_a_start_its_time(component: str) -> None:
    [container] = pod(component)["containers"]
    probes = {name: container[f"{name}Probe"] for name in ("startup", "liveness", "readiness")}
    assert {name: probe["httpGet"]["path"] for name, probe in probes.items()} == {
        "startup": "/healthz",
        "liveness": "/healthz",
        "readiness": "/readyz",
    }
    assert all(
        probe["httpGet"]["port"] == container["ports"][0]["name"] for probe in probes.values()
    )
    assert (
        probes["startup"]["periodSeconds"] * probes["startup"]["failureThreshold"] >= HEALTH_SECONDS
    )
    assert container["ports"][0]["containerPort"] == load_settings({}, env_file=None).http_port


@pytest.mark.parametrize("component", VERBS)
def test_the_pod_meets_the_restricted_profile_that_its_namespace_enforces(component: str) -> None:
    assert (
        of_kind("Namespace")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
        == "restricted"
    )
    security, [container] = pod(component)["securityContext"], pod(component)["containers"]
    assert (security["runAsNonRoot"], security["seccompProfile"]["type"]) == (
        True,
        "RuntimeDefault",
    )
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert f"USER {security['runAsUser']}:{security['runAsGroup']}" in (
        ROOT / "Dockerfile"
    ).read_text("utf-8")


def test_a_secret_in_a_manifest_is_a_secret_no_more() -> None:
    assert not [one for one in manifests() if one["kind"] == "Secret"]
    for component in VERBS:
        [container] = pod(component)["containers"]
        assert {"secretRef": {"name": f"leadstream-{component}"}} in container["envFrom"]
    given = configuration()
    assert not re.search(r"PASSWORD|SECRET|DATABASE_URL|HASH_KEY", " ".join(given))
    settings = load_settings(dict(given), env_file=None)
    assert set(given) <= {field.alias for field in type(settings).model_fields.values()}


def test_one_process_never_has_the_account_or_the_secret_of_another() -> None:
    accounts = [one["metadata"]["name"] for one in manifests() if one["kind"] == "ServiceAccount"]
    assert sorted(accounts) == sorted(f"leadstream-{component}" for component in VERBS)
    page = (ROOT / "docs/how-to/deploy.md").read_text("utf-8")
    created = dict(re.findall(r"create secret generic (\S+) \\\n((?:.*\\\n)*.*)", page))
    for component in VERBS:
        assert pod(component)["serviceAccountName"] == f"leadstream-{component}"
        has_database = "DATABASE_URL" in created[f"leadstream-{component}"]
        assert has_database == (component in ("consumer", "relay"))


def test_nobody_but_the_monitoring_calls_a_pod_and_only_two_call_the_database() -> None:
    everyone, database = (one for one in manifests() if one["kind"] == "NetworkPolicy")
    labels = deployment("consumer")["spec"]["selector"]["matchLabels"]
    selected = everyone["spec"]["podSelector"]["matchLabels"]
    assert selected.items() < labels.items()
    assert everyone["spec"]["policyTypes"] == ["Ingress", "Egress"]
    [ingress] = everyone["spec"]["ingress"]
    assert ingress["from"]
    assert [port["port"] for port in ingress["ports"]] == ["http"]
    ports = [port["port"] for rule in everyone["spec"]["egress"] for port in rule["ports"]]
    assert 5432 not in ports
    given = configuration()
    for address in (given["KAFKA_BOOTSTRAP_SERVERS"], given["SCHEMA_REGISTRY_URL"]):
        assert int(re.findall(r":(\d+)", address)[0]) in ports
    [component] = [
        each["values"]
        for each in database["spec"]["podSelector"]["matchExpressions"]
        if each["key"].endswith("component")
    ]
    assert component == ["consumer", "relay"]


def test_what_scales_and_what_disrupts_mean_the_consumer() -> None:
    consumer, budget, scaled = (
        deployment("consumer"),
        of_kind("PodDisruptionBudget"),
        of_kind("ScaledObject"),
    )
    assert budget["spec"]["selector"] == consumer["spec"]["selector"]
    assert "replicas" not in consumer["spec"]
    assert scaled["spec"]["scaleTargetRef"]["name"] == consumer["metadata"]["name"]
    assert scaled["spec"]["minReplicaCount"] > budget["spec"]["maxUnavailable"]


@pytest.mark.parametrize("component", VERBS)
def test_a_deployment_means_its_own_pods_and_the_monitor_all_of_them(component: str) -> None:
    spec = deployment(component)["spec"]
    labels = spec["selector"]["matchLabels"]
    assert labels["app.kubernetes.io/component"] == component
    assert spec["template"]["metadata"]["labels"] == labels
    assert of_kind("PodMonitor")["spec"]["selector"]["matchLabels"].items() < labels.items()


@pytest.mark.parametrize("component", [verb for verb in VERBS if verb != "consumer"])
def test_beside_the_consumers_one_process_of_each_verb_runs(component: str) -> None:
    spec = deployment(component)["spec"]
    [container] = pod(component)["containers"]
    assert container["args"] == ([component, "write"] if component == "history" else [component])
    # What promotes models by itself runs where somebody says so.
    replicas = 0 if component == "learn" else 1
    assert (spec["replicas"], spec["strategy"]["type"]) == (replicas, "Recreate")


def test_the_scaler_asks_for_the_lag_of_this_group_and_topic_and_not_beyond_the_partitions() -> (
    None
):
    default = load_settings({}, env_file=None)
    [trigger] = of_kind("ScaledObject")["spec"]["triggers"]
    given = configuration()
    assert trigger["metadata"]["consumerGroup"] == default.group_id
    assert trigger["metadata"]["topic"] == Topics().lead_changes
    assert trigger["metadata"]["bootstrapServers"] == given["KAFKA_BOOTSTRAP_SERVERS"]
    page = (ROOT / "docs/how-to/deploy.md").read_text("utf-8")
    partitions = re.search(r"topics create --partitions (\d+)", page)
    assert partitions
    assert of_kind("ScaledObject")["spec"]["maxReplicaCount"] == int(partitions[1])


def test_the_command_of_the_docs_makes_a_resource_of_the_alerts(tmp_path: Path) -> None:
    page = (ROOT / "docs/how-to/deploy.md").read_text("utf-8")
    lines = re.sub(r"\s*\\\n\s*", " ", page)
    [command] = re.findall(r"^\$ (\{ printf .* \}) \| kubectl", lines, re.MULTILINE)
    made = subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout
    resource = yaml.safe_load(made)
    assert (resource["apiVersion"], resource["kind"]) == (
        "monitoring.coreos.com/v1",
        "PrometheusRule",
    )
    assert resource["spec"] == yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text("utf-8"))
