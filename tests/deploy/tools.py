"""The programs that check what is in deploy/: from `make tools`, the virtual environment, or the
path.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest
import yaml  # type: ignore[import-untyped]

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
_PLACES = (ROOT / ".tools" / "bin", Path(sys.executable).parent, *map(Path, os.get_exec_path()))


def tool(name: str) -> str:
    """Where a program is.

    Without it the test is skipped; REQUIRE_TOOLS=1, as in continuous integration, fails it.
    """
    found = shutil.which(name, path=os.pathsep.join(map(str, _PLACES)))
    return found or _lacking(name)


def schema_of(file: str, version: str) -> dict[str, Any]:
    """The schema of an operator's resource, as its own definition (of `make tools`) has it; missing
    as a program is.
    """
    path = ROOT / ".tools" / "crds" / file
    if not path.exists():
        _lacking(file)
    versions = yaml.safe_load(path.read_text("utf-8"))["spec"]["versions"]
    [schema] = [one["schema"]["openAPIV3Schema"] for one in versions if one["name"] == version]
    return dict(schema)


def _lacking(name: str) -> NoReturn:
    reason = f"{name} is not here: `make tools` brings it"
    if os.environ.get("REQUIRE_TOOLS") == "1":
        pytest.fail(f"REQUIRE_TOOLS=1, but {reason}", pytrace=False)
    pytest.skip(reason)


def output(name: str, *arguments: str | Path, folder: Path = ROOT) -> str:
    """What a program printed that must end well."""
    ran = subprocess.run(
        [tool(name), *arguments], capture_output=True, text=True, check=False, cwd=folder
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout
