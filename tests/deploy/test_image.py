"""The image: what it is built from, pinned by hash, and what is said of it."""

import contextlib
import json
import re
import shlex
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy import sbom
from leadstream.local.broker import Broker
from tests.deploy.tools import DEPLOY, ROOT, output
from tests.integration.running import Stage

pytestmark = pytest.mark.deploy

BUILD = DEPLOY / "requirements-build.txt"
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
IN_THE_IMAGE = ("fast", "history", "otel", "s3")
PYTHONS = (sbom.PYTHON, "{}.{}".format(*sys.version_info))


def versions(file: Path, python: str = sbom.PYTHON) -> dict[str, str]:
    return {
        canonicalize_name(package.name): package.version for package in sbom.locked(file, python)
    }


def test_hadolint_has_nothing_to_say() -> None:
    assert output("hadolint", ROOT / "Dockerfile") == ""


@pytest.mark.parametrize("file", [sbom.LOCK, BUILD], ids=lambda file: file.name)
def test_a_lock_without_a_hash_installs_whatever_is_served(file: Path) -> None:
    packages = sbom.locked(file)
    assert packages
    for package in packages:
        assert package.hashes, package
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", one) for one in package.hashes), package
    assert "://" not in file.read_text("utf-8")


@pytest.mark.parametrize("python", PYTHONS)
def test_a_dependency_that_is_not_in_the_lock_or_outside_of_its_range_breaks_the_image(
    python: str,
) -> None:
    project = PYPROJECT["project"]
    extras = project["optional-dependencies"]
    found = versions(sbom.LOCK, python)
    for line in [
        *project["dependencies"],
        *(line for extra in IN_THE_IMAGE for line in extras[extra]),
    ]:
        wanted = Requirement(line)
        version = found[canonicalize_name(wanted.name)]
        assert wanted.specifier.contains(version), (
            f"{line}, but {version} is locked: run `make lock`"
        )


def test_the_image_can_build_the_wheel_without_an_index() -> None:
    for line in PYPROJECT["build-system"]["requires"]:
        wanted = Requirement(line)
        assert wanted.specifier.contains(versions(BUILD)[wanted.name])
    assert "--no-index" in DOCKERFILE


def test_the_lock_is_read_for_the_python_of_the_image() -> None:
    assert f"ARG PYTHON={sbom.PYTHON}-" in DOCKERFILE


def test_a_bill_of_materials_that_is_behind_the_lock_names_what_is_not_there() -> None:
    assert sbom.FILE.read_text("utf-8") == sbom.write(), "run `make lock`"
    listed = {part["name"]: part["version"] for part in json.loads(sbom.write())["components"]}
    assert listed == versions(sbom.LOCK)


def test_every_package_has_its_license_and_the_hash_of_each_of_its_files() -> None:
    listed = {part["name"]: part for part in json.loads(sbom.write())["components"]}
    for package in sbom.locked():
        part = listed[package.name]
        hashes = {f"sha256:{each['content']}" for each in part["hashes"]}
        assert hashes == set(package.hashes)
        assert part["licenses"][0]["expression"]
    assert set(sbom.licenses()) == set(listed)


def test_a_license_is_the_one_that_the_package_declares() -> None:
    for name, expression in sbom.licenses().items():
        with contextlib.suppress(PackageNotFoundError):
            found = metadata(name).json
            assert found.get("license_expression", expression) == expression, name


def test_the_bill_of_materials_is_valid_cyclonedx_and_everything_in_it_is_needed_by_something() -> (
    None
):
    assert (
        JsonStrictValidator(SchemaVersion.V1_6).validate_str(sbom.FILE.read_text("utf-8")) is None
    )
    dependencies = {
        one["ref"]: set(one.get("dependsOn", ()))
        for one in json.loads(sbom.write())["dependencies"]
    }
    reached, new = set(), {"leadstream"}
    while new:
        reached |= new
        new = {needed for one in new for needed in dependencies[one]} - reached
    assert reached == set(dependencies)


def test_the_image_runs_without_root_and_says_when_it_is_well() -> None:
    final = DOCKERFILE.split("\nFROM ")[-1]
    assert re.search(r"^USER 10001:10001$", final, re.MULTILINE)
    assert "/healthz" in final.split("HEALTHCHECK")[1]
    assert 'ENTRYPOINT ["leadstream"]' in final


def test_every_version_that_is_named_is_this_one() -> None:
    version = re.search(
        r'__version__ = "(.+)"', (ROOT / "leadstream/__init__.py").read_text("utf-8")
    )
    assert version
    assert f"newTag: {version[1]}\n" in (DEPLOY / "kubernetes/kustomization.yaml").read_text(
        "utf-8"
    )


@pytest.mark.broker
def test_a_consumer_needs_no_rights_and_no_place_to_write_but_tmp_and_its_cache(
    kafka: Broker, model_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine as the image has it, whatever it is built from: a read-only root, and no
    capability at all.
    """
    places = {name: tmp_path / name for name in ("tmp", "cache")}
    for place in places.values():
        place.mkdir()
    mounts = " && ".join(
        f"mount -t tmpfs leadstream {shlex.quote(str(place))}" for place in places.values()
    )
    inside = (
        f"mount --make-rprivate / && mount -o remount,bind,ro / && {mounts} && cd "
        f"{shlex.quote(str(ROOT))}"
    )
    bare = (
        f"exec setpriv --no-new-privs --inh-caps=-all --bounding-set=-all "
        f'{shlex.quote(sys.executable)} "$@"'
    )
    python = tmp_path / "python"
    python.write_text(
        f"#!/bin/sh\nexec unshare --user --map-root-user --mount sh -ec "
        f'{shlex.quote(f"{inside} && {bare}")} sh "$@"\n'
    )
    python.chmod(0o755)
    if subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody make a root of its own (user namespaces)")
    refused = subprocess.run(
        [python, "-c", "open('new', 'w')"], capture_output=True, text=True, check=False
    )
    assert "Read-only file system" in refused.stderr

    stage = Stage.on(kafka.bootstrap, tmp_path, model_store)
    stage.fresh = True
    monkeypatch.setattr(sys, "executable", str(python))
    with stage.running(
        TMPDIR=str(places["tmp"]), NUMBA_CACHE_DIR=str(places["cache"]), PYTHONDONTWRITEBYTECODE="1"
    ) as process:
        stage.send(stage.changes("lead", 20))
        assert len(stage.read(stage.topics.lead_predictions, 20)) == 20
        status = Path(f"/proc/{process.pid}/status").read_text("utf-8")
        assert re.search(r"^CapEff:\s+0+$", status, re.MULTILINE)
        assert process.stop() == 0
