"""The programs that check what is in deploy/: from `make tools`, the virtual environment, or the path."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
_PLACES = (ROOT / ".tools" / "bin", Path(sys.executable).parent, *map(Path, os.get_exec_path()))


def tool(name: str) -> str:
    """Where a program is. Without it the test is skipped; REQUIRE_TOOLS=1, as in continuous integration, fails it."""
    found = shutil.which(name, path=os.pathsep.join(map(str, _PLACES)))
    if found is None:
        reason = f"{name} is not here: `make tools` brings it"
        if os.environ.get("REQUIRE_TOOLS") == "1":
            pytest.fail(f"REQUIRE_TOOLS=1, but {reason}", pytrace=False)
        pytest.skip(reason)
    return found


def said(name: str, *arguments: str | Path, folder: Path = ROOT) -> str:
    """What a program printed that must end well."""
    ran = subprocess.run([tool(name), *arguments], capture_output=True, text=True, check=False, cwd=folder)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout
