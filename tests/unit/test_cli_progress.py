"""Long work without a terminal must say what it does."""

import pytest

from leadstream.cli.progress import stages, working


def test_training_without_a_terminal_names_each_stage_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with stages() as advance:
        for stage, share in (("reading", 0.0), ("fitting", 0.1), ("fitting", 0.5), ("done", 1.0)):
            advance(stage, share)
    assert capsys.readouterr() == ("", "reading ...\nfitting ...\n")


def test_work_of_seconds_is_named_unless_its_results_come_line_by_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with working("compiling"), working("checking", lines=False):
        assert capsys.readouterr() == ("", "compiling ...\n")
