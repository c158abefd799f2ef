import contextlib
import io
import json
from collections.abc import Iterator

import pytest
import structlog

from leadstream.log import client_logger, configure
from leadstream.settings import load_settings


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def test_what_a_client_says_goes_where_standard_error_is_now_though_an_earlier_one_is_closed() -> (
    None
):
    with contextlib.redirect_stderr(io.StringIO()) as before:
        configure(load_settings({}))
    before.close()
    with contextlib.redirect_stderr(io.StringIO()) as now:
        client_logger().warning("Connect to broker %d failed", 1)
    assert json.loads(now.getvalue())["detail"] == "Connect to broker 1 failed"
