"""The files for contributors name commands that exist."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()


def test_hosted_checks_that_do_not_call_ci_run_would_drift_from_ours() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    [job] = workflow["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]


def test_ci_run_must_run_the_tests_of_the_readme_and_the_rest() -> None:
    script = (ROOT / ".ci/run").read_text()
    called = re.findall(r"^make ([a-z-]+)$", script, re.MULTILINE)
    assert called[:1] == ["lint"]
    assert {"test", "test-rest"} <= set(called) <= set(targets())


def test_a_hook_whose_program_does_not_exist_would_stop_every_commit() -> None:
    [repo] = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repo["repo"] == "local"
    for hook in repo["hooks"]:
        program, *_ = hook["entry"].split()
        assert program in {".venv/bin/mypy", ".venv/bin/python", ".venv/bin/ruff"}


def test_issue_forms_must_be_valid_yaml() -> None:
    forms = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("[!c]*.yml"))
    assert len(forms) == 2
    for form in forms:
        assert {"name", "description", "body"} <= yaml.safe_load(form.read_text()).keys()


def test_a_target_without_a_sentence_would_be_missing_from_make_help() -> None:
    described = set(re.findall(r"^([a-z][a-z-]*):.*## \S", MAKEFILE, re.MULTILINE))
    assert described == set(targets())
    displayed = subprocess.run(
        ["make", "--no-print-directory", "help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert [line.split()[0] for line in displayed.splitlines()] == targets()
    assert max(map(len, displayed.splitlines())) <= 100


def targets() -> list[str]:
    """Return the targets that users may call, in the order of the Makefile."""
    return re.findall(r"^([a-z][a-z-]*):", MAKEFILE, re.MULTILINE)


def test_make_runs_the_code_of_its_folder_and_no_copy_from_before_a_pull() -> None:
    make = shutil.which("make") or pytest.skip("make is not installed here")
    done = subprocess.run(
        [make, "--silent", "--eval", "displayed: ; @echo $$PYTHONPATH", "displayed"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str(ROOT)
