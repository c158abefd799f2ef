"""The wheel: what is in it, and that a newcomer's `pip install` of it works where nothing else is
installed.
"""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from leadstream import __version__
from tests.deploy.tools import DEPLOY, ROOT, output

pytestmark = pytest.mark.deploy

ROOMS = ("consumer", "features", "leadstream", "models", "producer", "schemas")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from what .dockerignore lets through, as the image builds it."""
    source = tmp_path_factory.mktemp("source")
    kept = [
        line[1:]
        for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines()
        if line.startswith("!")
    ]
    for name in kept:
        (source / name).parent.mkdir(exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            shutil.copy(ROOT / name, source / name)
    output("uv", "build", "--quiet", "--wheel", "--out-dir", source / "dist", source)
    [built] = (source / "dist").glob("*.whl")
    return built


def test_a_file_that_a_verb_reads_is_in_the_wheel_and_nothing_else_is(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
    needed = {
        str(path.relative_to(ROOT))
        for room in ROOMS
        for path in (ROOT / room).rglob("*")
        if path.is_file() and path.parent.name != "__pycache__"
    }
    assert inside == needed
    assert {"schemas/lead_changed.avsc", "models/train/report.html", "producer/crm.sql"} <= inside


@pytest.mark.timeout(
    600
)  # half a gigabyte is unpacked: half a minute on a machine with nothing else to do
def test_pip_install_of_the_wheel_gives_a_working_command(wheel: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    # -I: the checkout is on PYTHONPATH, and holds what pip takes for an installed package.
    python = [str(tmp_path / "venv/bin/python"), "-I"]
    pip = [*python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--no-compile", str(wheel)], check=True)
    subprocess.run([*pip, "check"], check=True)
    works(tmp_path / "venv", tmp_path)


def test_what_the_image_installs_is_enough_for_the_wheel(wheel: Path, tmp_path: Path) -> None:
    python = tmp_path / "venv/bin/python"
    output("uv", "venv", "--quiet", "--python", sys.executable, tmp_path / "venv")
    install = ["pip", "install", "--quiet", "--python", python]
    output(
        "uv", *map(str, install), "--require-hashes", "--no-deps", "-r", DEPLOY / "requirements.txt"
    )
    output("uv", *map(str, install), "--offline", "--no-deps", wheel)
    output("uv", "pip", "check", "--quiet", "--python", python)
    works(tmp_path / "venv", tmp_path)
    kernels = "import models.serve.compiled, schemas.compiled, s3fs"
    subprocess.run(
        [python, "-c", kernels], check=True, cwd=tmp_path, env={"NUMBA_CACHE_DIR": str(tmp_path)}
    )


def works(venv: Path, folder: Path) -> None:
    """The verbs that need no ground, from an empty folder with an empty environment."""

    def leadstream(*words: str, code: int = 0) -> str:
        done = subprocess.run(
            [venv / "bin/leadstream", *words],
            capture_output=True,
            text=True,
            check=False,
            cwd=empty,
            env={"PATH": os.defpath, "HOME": str(empty)},
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    empty = folder / "empty"
    empty.mkdir()
    assert leadstream("--version").strip() == f"leadstream {__version__}"
    assert "dead-letters" in leadstream("--help")
    assert json.loads(leadstream("config", "--json"))["LEADSTREAM_GROUP_ID"] == "leadstream"
    leadstream("schemas", "check")
    assert "LeadPrediction" in leadstream("schemas", "show", "LeadPrediction")
    assert "KAFKA_BOOTSTRAP_SERVERS is not set" in leadstream("run", code=2)
    (empty / "leads.csv").write_text("Record ID,Create Date\n")
    assert "Traceback" not in leadstream("import", "leads.csv", "--preset", "hubspot", code=2)
