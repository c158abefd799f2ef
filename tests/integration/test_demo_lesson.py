"""The last step of `leadstream demo`: a model of the history that the demo itself wrote."""

import re

import pytest

from leadstream.local.broker import Broker
from leadstream.local.postgres import Postgres
from tests.integration.test_demo import all_of, demo


@pytest.mark.broker
@pytest.mark.postgres
@pytest.mark.long
def test_a_model_of_leads_as_they_were_loses_less_than_one_of_todays_leads(
    kafka: Broker, postgres: Postgres
) -> None:
    with demo() as process:
        output = all_of(process)
    assert process.returncode == 0, output
    rows = re.findall(r"(the history \(1\.1\.0\)|today's leads) +[\d,]+ +([.\d]+)", output)
    (first, history), (second, today) = rows
    assert (first[:11], second) == ("the history", "today's leads")
    assert float(history) < float(today)
