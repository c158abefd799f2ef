"""The doctor's questions to a cluster, without one."""

from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from leadstream.cli.doctor.cluster import DoctorCluster
from leadstream.errors import Transient
from leadstream.settings import load_settings


class LoadingAdmin:
    """An admin client whose first answers are those of a coordinator that is being made."""

    def __init__(self, failures: int, code: int) -> None:
        self.failures, self.code = failures, code

    def describe_consumer_groups(self, groups: list[str], **_: object) -> dict[str, Future[Any]]:
        future: Future[Any] = Future()
        if self.failures:
            self.failures -= 1
            error = KafkaError(self.code, "ConsumerGroupDescribe: ")
            future.set_exception(KafkaException(error))
        else:
            future.set_result(SimpleNamespace(members=["one"]))
        return {groups[0]: future}

    def poll(self, _seconds: float) -> int:
        return 0


def test_a_coordinator_that_is_being_made_is_no_failure_of_the_brokers() -> None:
    admin: Any = LoadingAdmin(3, KafkaError.COORDINATOR_NOT_AVAILABLE)
    cluster = DoctorCluster(load_settings({}, None), admin, [], {})
    assert cluster.members() == 1


def test_a_refusal_whose_text_ends_before_its_cause_is_told_at_once_and_with_its_name() -> None:
    admin: Any = LoadingAdmin(1, KafkaError.GROUP_AUTHORIZATION_FAILED)
    cluster = DoctorCluster(load_settings({}, None), admin, [], {})
    with pytest.raises(Transient, match=r"ConsumerGroupDescribe: GROUP_AUTHORIZATION_FAILED$"):
        cluster.members()
