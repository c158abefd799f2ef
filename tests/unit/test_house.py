"""The house: which rooms may import which."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS: dict[str, set[str]] = {
    "leadstream": set(),
    "schemas": {"leadstream"},
    "features": {"leadstream"},
    "models": {"features", "leadstream"},
    "producer": {"schemas", "leadstream"},
    "consumer": {"models", "features", "schemas", "leadstream"},
    "local": {"leadstream"},
    "commands": {"consumer", "models", "features", "schemas", "producer", "local", "leadstream"},
}


def imported(room: str) -> dict[str, set[str]]:
    """The top-level packages that each module of a room imports, anywhere in it."""
    found: dict[str, set[str]] = {}
    for path in (ROOT / room).rglob("*.py"):
        names: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.split(".")[0])
        found[str(path.relative_to(ROOT))] = names
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_an_import_against_the_direction_of_the_house_would_tie_the_rooms_into_a_knot(room: str) -> None:
    modules = imported(room)
    assert modules
    for module, names in modules.items():
        assert names & ROOMS.keys() <= ROOMS[room] | {room}, module


@pytest.mark.parametrize("room", ["features", "models"])
def test_features_and_models_must_not_know_kafka_or_postgres(room: str) -> None:
    for module, names in imported(room).items():
        assert not names & {"confluent_kafka", "psycopg"}, module


def test_features_must_not_read_a_clock_or_a_file() -> None:
    for module, names in imported("features").items():
        assert not names & {"time", "os", "io", "pathlib", "socket", "random"}, module


def test_the_wheel_must_not_bring_the_tests_along() -> None:
    packages = (ROOT / "pyproject.toml").read_text().split("[tool.setuptools.packages.find]")[1].split("]")[0]
    assert "tests" not in packages
    assert all(room in packages for room in ROOMS)
