"""The ground that is broken on purpose, shared by the short schedules of one file."""

from collections.abc import Iterator

import pytest

from tests.conftest import _ground
from tests.faults.environment import Ground, fault_ground


@pytest.fixture(scope="session")
def one_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    with _ground(lambda say: fault_ground(1, tmp_path_factory.mktemp("one"), say)) as ground:
        yield ground


@pytest.fixture(scope="session")
def three_brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    with _ground(lambda say: fault_ground(3, tmp_path_factory.mktemp("three"), say)) as ground:
        yield ground
