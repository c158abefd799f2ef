"""The ground that is broken on purpose, shared by the short schedules of one file."""

from collections.abc import Iterator

import pytest

from tests.conftest import start_or_skip
from tests.faults.environment import FaultEnvironment, fault_environment


@pytest.fixture(scope="session")
def one_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultEnvironment]:
    with start_or_skip(
        lambda say: fault_environment(1, tmp_path_factory.mktemp("one"), say)
    ) as environment:
        yield environment


@pytest.fixture(scope="session")
def three_brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultEnvironment]:
    with start_or_skip(
        lambda say: fault_environment(3, tmp_path_factory.mktemp("three"), say)
    ) as environment:
        yield environment
