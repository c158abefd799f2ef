"""Standard output and standard error: no stranger writes to the terminal, and no loss is silent."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leadstream import terminal
from leadstream.cli import main as command
from leadstream.cli.rich_output import rich_console
from leadstream.errors import UserError
from leadstream.log import configure, get_logger
from leadstream.process.metrics import RelayMetrics
from leadstream.settings import load_settings
from leadstream.terminal import GuardedErrors, clean, clean_line, dropped_lines, guarded_streams
from tests.docs.test_reference import verbs
from tests.examples import examples

ROOT = Path(__file__).parents[2]
# A title, a cleared screen, a C1 sequence, text to the left, a lone surrogate, a deleted character.
INJECTION = "\x1b]0;owned\x07\x1b[2J\x9b31mred\u202egnp.exe\u2066\ud800\x7f\x08[/bold]"
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
ANY = st.text(st.characters(codec=None, categories=None), max_size=40)


@settings(max_examples=examples(300), deadline=None)
@given(text=ANY)
def test_whatever_is_written_holds_nothing_that_a_terminal_obeys_and_json_keeps_its_meaning(
    text: str,
) -> None:
    assert not OBEYED.search(clean(text))
    assert "\n" not in clean_line(text)
    assert json.loads(clean(json.dumps(text, ensure_ascii=False))) == text


def written(capfd: pytest.CaptureFixture[str]) -> str:
    out, err = capfd.readouterr()
    assert not OBEYED.search(out + err)
    return out + err


@pytest.mark.parametrize("words", [*verbs()])
def test_no_verb_can_print_a_hostile_text_as_it_is(
    words: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whatever a verb uses to print: print, rich, JSON, the log, an error, a warning, a bug."""

    def injecting(_arguments: object) -> int:
        configure(load_settings({"LEADSTREAM_LOG_FORMAT": "console"}, None))
        get_logger().warning("injecting", text=INJECTION, data={INJECTION: INJECTION})
        print(INJECTION)
        print(json.dumps(INJECTION, ensure_ascii=False))
        print(INJECTION, file=sys.stderr)
        rich_console().print(INJECTION)
        rich_console(stderr=True).print(INJECTION)
        raise errors.pop()

    errors: list[Exception] = [UserError(INJECTION), RuntimeError(INJECTION)]
    top = command.parser()
    parser, rest = top, words.split()
    for word in rest:
        parser = next(
            action.choices[word] for action in parser._actions if isinstance(action.choices, dict)
        )
    parser.set_defaults(func=injecting)
    monkeypatch.setattr(type(parser), "parse_args", lambda *_: parser_defaults(parser))
    monkeypatch.setattr(command, "parser", lambda: top)
    for _ in range(2):
        assert command.main([]) == 1
    text = written(capfd)
    assert text.count("\\u001b]0;owned") >= 14
    assert "Traceback" in text


def parser_defaults(parser: object) -> object:
    import argparse

    return argparse.Namespace(func=parser.get_default("func"))  # type: ignore[attr-defined]


def test_hostile_names_and_manifests_reach_no_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LEADSTREAM_TOPIC_LEAD_CHANGES", INJECTION.replace("\ud800", ""))
    assert command.main(["config"]) == 0
    assert "\\u001b]0;owned" in written(capfd)
    monkeypatch.delenv("LEADSTREAM_TOPIC_LEAD_CHANGES")
    assert command.main(["import", INJECTION, "--mapping", INJECTION, "--dry-run"]) != 0
    assert command.main(["train", "--csv", INJECTION, "--mapping", INJECTION]) != 0
    written(capfd)
    assert command.main(["schemas", "show", INJECTION]) != 0
    with pytest.raises(SystemExit):
        command.main([INJECTION])
    assert "\\u001b]0;owned" in written(capfd)


def test_a_strangers_line_break_in_an_error_must_not_look_like_a_line_of_ours(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(_arguments: object) -> int:
        raise UserError("the registry says no\nleadstream: all is well")

    full = command.parser()
    full.set_defaults(func=refuse)
    monkeypatch.setattr(type(full), "parse_args", lambda *_: parser_defaults(full))
    monkeypatch.setattr(command, "parser", lambda: full)
    assert command.main([]) == 1
    error = capfd.readouterr().err
    assert error == "leadstream: the registry says no\\u000aleadstream: all is well\n"


def test_a_library_that_resets_the_colors_at_the_end_may_do_so(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with guarded_streams():
        kept = sys.stdout
        kept.write("\x1b[0m")
    kept.write("\x1b[0m")
    assert capfd.readouterr().out == "\\u001b[0m\x1b[0m"


def leadstream(
    *words: str, closed: str = "", out: int = subprocess.PIPE, err: int = subprocess.PIPE
) -> "subprocess.CompletedProcess[str]":
    command_line = [sys.executable, "-m", "leadstream.cli.main", *words]
    shell = ["sh", "-c", f'exec "$@" {closed}', "sh"]
    return subprocess.run(
        [*shell, *command_line], check=False, cwd=ROOT, stdout=out, stderr=err, text=True
    )


@pytest.mark.parametrize("words", ["config", "config --json", "--help", "schemas show"])
@pytest.mark.slow
def test_a_result_that_cannot_be_written_is_no_success(words: str) -> None:
    for closed in (">/dev/full", ">&-"):
        done = leadstream(*words.split(), closed=closed)
        assert done.returncode == 1, (closed, done.stderr)
        assert done.stderr.startswith("leadstream: standard output cannot be written (")
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_a_reader_that_has_read_enough_is_no_failure() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = leadstream("config", out=writing)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("closed", ["2>/dev/full", "2>&-"])
@pytest.mark.slow
def test_an_error_that_cannot_be_written_keeps_its_exit_code(closed: str) -> None:
    assert leadstream("run", closed=closed).returncode == 2  # KAFKA_BOOTSTRAP_SERVERS is not set
    assert leadstream("no-such-verb", closed=closed).returncode == 2
    done = leadstream("config", closed=closed)
    assert done.returncode == 0
    assert "LEADSTREAM_GROUP_ID=leadstream\n" in done.stdout


def test_a_log_that_nobody_reads_stops_nothing_and_its_lost_lines_are_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(terminal, "_PATIENCE_SECONDS", 0.0)
    reading, writing = os.pipe()
    before = dropped_lines()
    with os.fdopen(writing, "w") as pipe:
        monkeypatch.setattr(sys, "stderr", pipe)
        with guarded_streams():
            configure(load_settings({}, None))
            while dropped_lines() < before + 3:  # the pipe takes 64 KiB, and then nothing
                get_logger().info("batch", text="x" * 3000)
            os.read(reading, 2**20)
            get_logger().info("read again")
            lost = dropped_lines()
    assert lost == before + 3
    assert b"read again" in os.read(reading, 2**20)
    os.close(reading)
    exposed = RelayMetrics().expose().decode()
    assert f"leadstream_log_lines_dropped_total {lost:.1f}\n" in exposed


def test_a_log_on_a_full_disk_raises_nothing() -> None:
    before = dropped_lines()
    with open("/dev/full", "w", encoding="utf-8") as full:
        GuardedErrors(full).write("lost\n")
    GuardedErrors(None).write("lost\n")
    closed = io.StringIO()
    closed.close()
    GuardedErrors(closed).write("lost\n")
    assert dropped_lines() == before + 3
