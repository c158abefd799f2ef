"""The options of `leadstream dead-letters`."""

import pytest

from leadstream.cli.main import parser


@pytest.mark.parametrize("verb", ["replay", "discard"])
@pytest.mark.parametrize("option", ["--comment", "--because"])
def test_a_script_with_the_older_name_of_an_option_must_keep_working(
    verb: str, option: str
) -> None:
    arguments = parser().parse_args(["dead-letters", verb, option, "the CRM was fixed"])
    assert arguments.comment == "the CRM was fixed"


@pytest.mark.parametrize("verb", ["replay", "discard"])
def test_help_with_two_names_for_one_option_would_confuse(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["dead-letters", verb, "--help"])
    text = capsys.readouterr().out
    assert "--comment" in text
    assert "--because" not in text


def test_a_discard_without_a_comment_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(["dead-letters", "discard"])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert "one of the arguments --comment is required" in error
    assert len(error.splitlines()) == 1
