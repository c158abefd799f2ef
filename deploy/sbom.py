"""The lock of the image, read; and its software bill of materials in CycloneDX, which is made of
it: `make lock`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import LicenseExpression
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL
from packaging.requirements import Requirement

from leadstream import __version__

FOLDER = Path(__file__).parent
LOCK, FILE = FOLDER / "requirements.txt", FOLDER / "sbom.cdx.json"
LICENSES = FOLDER / "licenses.txt"
PYTHON = "3.12"  # as in Dockerfile


@dataclass(frozen=True, slots=True)
class Locked:
    """One package of the lock: the hashes of its files, and what needs it."""

    name: str
    version: str
    hashes: tuple[str, ...]
    needed_by: tuple[str, ...]


def locked(file: Path = LOCK, python: str = PYTHON) -> list[Locked]:
    """What a lock installs on Linux with this Python."""
    return list(
        _entries(
            file.read_text("utf-8"), {"python_full_version": f"{python}.0", "sys_platform": "linux"}
        )
    )


def _entries(text: str, machine: dict[str, str]) -> Iterator[Locked]:
    for entry in re.split(r"\n(?=\w)", text.rsplit("make lock\n", maxsplit=1)[-1].lstrip()):
        words, _, comment = entry.partition("# via")
        line, *hashes = words.replace("\\\n", " ").split("--hash=")
        requirement = Requirement(line.strip())
        if requirement.marker is None or requirement.marker.evaluate(machine):
            [pinned] = requirement.specifier
            needed_by = tuple(re.findall(r"^[ #]*([\w.-]+)", comment, re.MULTILINE))
            yield Locked(
                requirement.name, pinned.version, tuple(h.strip() for h in hashes), needed_by
            )


def licenses() -> dict[str, str]:
    """The license of each package by its name, as an SPDX expression."""
    lines = LICENSES.read_text("utf-8").splitlines()
    return dict(line.split(" ", 1) for line in lines if line and not line.startswith("#"))


def write() -> str:
    """The bill of materials: every package with its version, its license and the hashes of its
    files, and which needs which.
    """
    root = Component(
        name="leadstream", version=__version__, type=ComponentType.APPLICATION, bom_ref="leadstream"
    )
    bom = Bom()
    bom.metadata.component = root
    # the same lock gives the same bytes
    bom.serial_number = bom.metadata.timestamp = None  # type: ignore[assignment]
    packages = locked()
    components, licensed = {"leadstream": root}, licenses()
    if unknown := {package.name for package in packages} - set(licensed):
        raise SystemExit(f"{LICENSES.name} has no license of {', '.join(sorted(unknown))}: add it")
    for package in packages:
        purl = PackageURL("pypi", name=package.name, version=package.version)
        name, ref = package.name, purl.to_string()
        components[name] = Component(
            name=name,
            version=package.version,
            purl=purl,
            bom_ref=ref,
            licenses=[LicenseExpression(licensed[name])],
            hashes=[
                HashType(alg=HashAlgorithm.SHA_256, content=each.removeprefix("sha256:"))
                for each in package.hashes
            ],
        )
        bom.components.add(components[name])
    for package in packages:
        for dependent in package.needed_by:
            bom.register_dependency(components[dependent], [components[package.name]])
    return (
        make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=1) + "\n"
    )


if __name__ == "__main__":
    FILE.write_text(write(), "utf-8")
