"""An audit that finds nothing because it could not look must say so, and one that finds fails."""

import json
from typing import Any

import pytest

from deploy.audit import summarize

CLEAN = {"name": "numpy", "version": "2.0", "vulns": []}
SKIPPED = {"name": "scipy", "skip_reason": "not found on PyPI"}
VULNERABLE = {
    "name": "jinja2",
    "version": "3.0",
    "vulns": [{"id": "CVE-2024-1", "fix_versions": ["3.1"]}, {"id": "CVE-2", "fix_versions": []}],
}


def summary(*packages: Any) -> tuple[str, int]:
    return summarize(json.dumps({"dependencies": packages, "fixes": []}))


def test_vulnerabilities_fail_and_are_named() -> None:
    sentence, code = summary(CLEAN, SKIPPED, VULNERABLE)
    assert code == 1
    assert "jinja2 3.0: CVE-2024-1, fixed in 3.1" in sentence
    assert "CVE-2, not fixed" in sentence


def test_packages_that_were_not_looked_up_are_not_called_safe() -> None:
    assert summary(CLEAN, SKIPPED)[0].startswith("1 packages have no known vulnerability; the in")
    assert summary(SKIPPED) == (
        "The advisories could not be read: this package index offers none.",
        0,
    )


@pytest.mark.parametrize("output", ["", "Traceback", "[]", "{}", "null"])
def test_an_audit_without_a_result_says_so(output: str) -> None:
    sentence, code = summarize(output)
    assert "could not be read" in sentence
    assert code == 0
