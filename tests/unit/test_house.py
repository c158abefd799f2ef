"""The house: which rooms may import which."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# A room is a package; leadstream/cli and leadstream/local are rooms of their own.
ROOMS: dict[str, set[str]] = {
    "leadstream": set(),
    "schemas": {"leadstream"},
    "features": {"leadstream"},
    "models": {"features", "leadstream"},
    "producer": {"schemas", "leadstream"},
    "consumer": {"models", "features", "schemas", "leadstream"},
    "leadstream.local": {"leadstream"},
    "leadstream.cli": {
        "consumer",
        "models",
        "features",
        "schemas",
        "producer",
        "leadstream",
        "leadstream.local",
    },
}
NESTED = {"leadstream.cli", "leadstream.local"}


def room_of(module: str) -> str:
    """Return the room that a dotted module name belongs to."""
    first_two = ".".join(module.split(".")[:2])
    return first_two if first_two in NESTED else module.split(".", maxsplit=1)[0]


def modules(room: str) -> dict[str, Path]:
    """Return the files of a room by their dotted names."""
    found = {}
    for path in sorted((ROOT / room.replace(".", "/")).rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if room_of(name) == room:
            found[name] = path
    return found


def imported(path: Path) -> set[str]:
    """Return the dotted names that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("room", ROOMS)
def test_an_import_against_the_direction_of_the_house_would_tie_the_rooms_into_a_knot(
    room: str,
) -> None:
    files = modules(room)
    assert files
    for module, path in files.items():
        rooms = {room_of(name) for name in imported(path)}
        assert rooms & ROOMS.keys() <= ROOMS[room] | {room}, module


@pytest.mark.parametrize("room", ["features", "models"])
def test_features_and_models_must_not_know_kafka_or_postgres(room: str) -> None:
    for module, path in modules(room).items():
        packages = {name.split(".")[0] for name in imported(path)}
        assert not packages & {"confluent_kafka", "psycopg"}, module
        assert not any(name.startswith("leadstream.kafka") for name in imported(path)), module


def test_features_must_not_read_a_clock_or_a_file() -> None:
    for module, path in modules("features").items():
        packages = {name.split(".")[0] for name in imported(path)}
        assert not packages & {"time", "os", "io", "pathlib", "socket", "random"}, module


def test_the_wheel_must_not_bring_the_tests_along() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    packages = project.split("[tool.setuptools.packages.find]")[1].split("]")[0]
    assert "tests" not in packages
    assert all(room.split(".")[0] in packages for room in ROOMS)
