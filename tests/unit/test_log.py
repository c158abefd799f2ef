import contextlib
import io
import json
import os
import re
from collections.abc import Iterator

import pytest
import structlog

from leadstream.log import client_logger, configure, get_logger
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


@pytest.mark.parametrize("verb", ["run", "relay"])
def test_lines_of_several_processes_in_one_terminal_must_say_whose_they_are(
    verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with contextlib.redirect_stderr(io.StringIO()) as found:
        monkeypatch.setattr(found, "isatty", lambda: True)
        configure(load_settings({}), verb)
        fields = {f"name_{number}": number * 1000 for number in range(20)}
        get_logger().warning("batch", **fields, detail="a sentence of several words")
    lines = re.sub(r"\x1b\[\d*m", "", found.getvalue()).splitlines()
    assert f" {verb}[{os.getpid()}] WARNING batch name_0=0" in lines[0]
    assert max(map(len, lines)) <= 80
    assert " ".join(line.strip() for line in lines).endswith(
        'name_19=19000 detail="a sentence of several words"'
    )


def test_a_line_for_programs_names_its_process_and_stays_one_line() -> None:
    with contextlib.redirect_stderr(io.StringIO()) as found:
        configure(load_settings({"LEADSTREAM_LOG_FORMAT": "console"}), "sink")
        get_logger().info("batch", text="word " * 50)
        configure(load_settings({}), "sink")
        get_logger().info("batch", records=1)
    console, line = found.getvalue().splitlines()
    assert f" sink[{os.getpid()}] batch text=" in console
    assert json.loads(line)["process"] == "sink"
