"""The help of every verb, and the completion of a shell, as people see them."""

import argparse
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from leadstream.cli.main import main, parser


def parsers(
    words: str, at: argparse.ArgumentParser
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Yield every parser with its words, those of families too."""
    yield words, at
    for action in at._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                yield from parsers(f"{words} {name}", inner)


ALL = dict(parsers("leadstream", parser()))


@pytest.mark.parametrize("words", ALL)
def test_help_that_is_wider_than_a_terminal_is_hard_to_read(
    words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = ALL[words].format_help().splitlines()
    assert [line for line in lines if len(line) > 80] == []


def test_a_command_that_is_wrapped_can_still_be_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    text = ALL["leadstream translate"].format_help()
    assert "--format cloudevents" in text.replace(" \\\n     ", "")
    assert all(len(line) <= 50 for line in text.splitlines() if line.startswith("  leadstream"))


def test_a_verb_that_is_in_no_group_of_the_help_is_not_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = ALL["leadstream"].format_help()
    verbs = [words.split()[1] for words in ALL if words.count(" ") == 1]
    listed = [line.split()[0] for line in text.splitlines() if line[:2] == "  " and line[2:3] > " "]
    assert sorted(set(listed) - {"-h,", "--version"}) == sorted(verbs)
    for title in ("try it", "serve", "connect", "learn", "triage", "check"):
        assert title in text


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("leadstream resc", "rescore"),
        ("leadstream dead-letters rep", "replay"),
        ("leadstream train --reci", "--recipe"),
        ("leadstream train --recipe boo", "boosting"),
    ],
)
def test_tab_completes_verbs_options_and_values_in_bash(
    typed: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("shtab")
    bash = shutil.which("bash") or pytest.skip("bash is not installed here")
    assert main(["completion", "bash"]) == 0
    words = typed.split()
    ask = (
        f"COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}\n"
        "_shtab_leadstream 2>/dev/null\n"
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        [bash, "--norc", "-c", f"{capsys.readouterr().out}\n{ask}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout.split() == [expected], done.stderr


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_zsh_and_fish_get_a_script_of_their_own_with_every_verb(
    shell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("shtab")
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(words.split()[-1] in script for words in ALL)
    program = shutil.which(shell)
    if program is not None:
        subprocess.run([program, "-n"], input=script, text=True, check=True, timeout=60)
