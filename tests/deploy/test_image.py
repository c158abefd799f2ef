"""The image: what it is built from, pinned by hash, and what is said of it."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.deploy.tools import DEPLOY, ROOT, said

LOCK = DEPLOY / "requirements.txt"
BUILD = DEPLOY / "requirements-build.txt"
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
IN_THE_IMAGE = ("fast", "s3")


def locked(file: Path) -> dict[str, tuple[Requirement, set[str]]]:
    """Each requirement of a lock, with the hashes of its files."""
    found = {}
    for entry in re.sub(r"\\\n", " ", file.read_text("utf-8")).splitlines():
        if entry and not entry.lstrip().startswith("#"):
            words, *hashes = entry.split("--hash=")
            requirement = Requirement(words.strip())
            found[canonicalize_name(requirement.name)] = (requirement, {h.strip() for h in hashes})
    return found


def test_hadolint_has_nothing_to_say() -> None:
    assert said("hadolint", ROOT / "Dockerfile") == ""


@pytest.mark.parametrize("file", [LOCK, BUILD], ids=lambda file: file.name)
def test_a_lock_without_a_hash_installs_whatever_is_served(file: Path) -> None:
    entries = locked(file)
    assert entries
    for requirement, hashes in entries.values():
        assert re.fullmatch(r"==[^*]+", str(requirement.specifier)), requirement
        assert hashes, requirement
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", one) for one in hashes)
    assert "://" not in file.read_text("utf-8")


def test_a_dependency_that_is_not_in_the_lock_or_outside_of_its_range_breaks_the_image() -> None:
    project = PYPROJECT["project"]
    extras = project["optional-dependencies"]
    for line in [*project["dependencies"], *(line for extra in IN_THE_IMAGE for line in extras[extra])]:
        wanted = Requirement(line)
        requirement, _ = locked(LOCK)[canonicalize_name(wanted.name)]
        version = str(requirement.specifier).removeprefix("==")
        assert wanted.specifier.contains(version), f"{line}, but {version} is locked: run `make lock`"


def test_the_image_can_build_the_wheel_without_an_index() -> None:
    for line in PYPROJECT["build-system"]["requires"]:
        wanted = Requirement(line)
        assert wanted.specifier.contains(str(locked(BUILD)[wanted.name][0].specifier).removeprefix("=="))
    assert "--no-index" in DOCKERFILE


def test_the_sbom_names_what_is_in_the_lock_and_nothing_else() -> None:
    sbom: dict[str, Any] = json.loads((DEPLOY / "sbom.cdx.json").read_text("utf-8"))
    assert sbom["bomFormat"] == "CycloneDX"
    listed = {canonicalize_name(c["name"]): (c["version"], c["purl"]) for c in sbom["components"]}
    expected = {name: str(requirement.specifier).removeprefix("==") for name, (requirement, _) in locked(LOCK).items()}
    assert listed == {name: (version, f"pkg:pypi/{name}@{version}") for name, version in expected.items()}


def test_the_image_runs_without_root_and_says_when_it_is_well() -> None:
    final = DOCKERFILE.split("\nFROM ")[-1]
    assert re.search(r"^USER 10001:10001$", final, re.MULTILINE)
    assert "/healthz" in final.split("HEALTHCHECK")[1]
    assert 'ENTRYPOINT ["leadstream"]' in final


def test_every_version_that_is_named_is_this_one() -> None:
    version = re.search(r'__version__ = "(.+)"', (ROOT / "leadstream/__init__.py").read_text("utf-8"))
    assert version
    assert f"newTag: {version[1]}\n" in (DEPLOY / "kubernetes/kustomization.yaml").read_text("utf-8")
