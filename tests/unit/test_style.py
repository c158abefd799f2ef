"""The style check finds the faults that are planted for it, and nothing in text that is right."""

import re
from pathlib import Path

import pytest

from tests.style import check, main

SENTENCE = '"""The module of an example."""\n'


def _findings(root: Path, **texts: str) -> list[str]:
    """Return what the check finds in these files; `__` in a name is a folder, `_md` an ending."""
    for name, text in texts.items():
        path = root / re.sub("(?<!_)__", "/", name).replace("_md", ".md")
        path = path if path.suffix else path.with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return [str(each) for each in check(root)]


def test_text_that_keeps_the_rules_must_not_be_reported(tmp_path: Path) -> None:
    code = '''class Queue:
    """A queue of commits: at most one is open."""

    def put(self, most_recent: int, min_rows: int) -> None:
        """Add one commit.

        The rest may begin with any word.
        """
'''
    prose = (
        "# Title\n"
        + "word " * 19
        + "\n| "
        + "cell | " * 40
        + "\n[link]: https://"
        + "x" * 120
        + "\n"
    )
    assert _findings(tmp_path, consumer__queue=SENTENCE + code, docs__page_md=prose) == []


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("def bury(): ...", "bury"),
        ("def record_fate(): ...", "fate"),
        ("class ThinRows: ...", "thin"),
        ("MOST_BYTES = 1", "most"),
        ("def take(at_once): ...", "at_once"),
        ("import json as facts", "facts"),
        ("class Case:\n    def __init__(self) -> None:\n        self._told = 1", "told"),
        ("def of(): ...", "of"),
    ],
)
def test_a_word_of_the_old_vocabulary_in_a_name_would_come_back(
    tmp_path: Path, name: str, word: str
) -> None:
    findings = _findings(tmp_path, benchmarks__case=name + "\n")
    assert len(findings) == 1
    assert findings[0].startswith("benchmarks/case.py:")
    assert f"not {word!r}" in findings[0]


def test_a_word_in_the_name_of_a_test_or_in_a_use_is_no_name_of_ours(tmp_path: Path) -> None:
    text = "import threading\n\n\ndef test_who_settles_it():\n    threading.Barrier(2).settle()\n"
    assert _findings(tmp_path, tests__unit__test_whom=text) == []


def test_a_class_name_used_twice_would_leave_the_reader_guessing(tmp_path: Path) -> None:
    inner = "def build():\n    class Row: ...\n    return Row\n"
    findings = _findings(tmp_path, benchmarks__one="class Row: ...\n", tests__two=inner)
    assert [each.split(": ", 1)[1] for each in findings] == [
        "class Row is also the name of tests/two.py:2",
        "class Row is also the name of benchmarks/one.py:1",
    ]


def test_a_module_name_used_twice_in_a_room_would_leave_the_reader_guessing(
    tmp_path: Path,
) -> None:
    findings = _findings(
        tmp_path,
        consumer__run__queue=SENTENCE,
        consumer__scoring__queue=SENTENCE,
        consumer__run____init__="",
        consumer__scoring____init__="",
        leadstream__queue=SENTENCE,
        leadstream__cli__queue=SENTENCE,
    )
    assert [each.split(":", 1)[0] for each in findings] == [
        "consumer/run/queue.py",
        "consumer/scoring/queue.py",
    ]


def test_a_line_that_is_too_long_would_need_scrolling(tmp_path: Path) -> None:
    findings = _findings(
        tmp_path,
        benchmarks__data=f'DATA = """\n{"x" * 120}\n"""\n',
        benchmarks__long=f"value = 1  # {'x' * 100}\nother = 1  # noqa: {'X' * 100}\n",
        docs__page_md="word " * 25 + "\n```console\n$ " + "word " * 25 + "\n```\n",
    )
    assert [each.split(": ")[0] for each in findings] == [
        "benchmarks/long.py:1",
        "docs/page.md:1",
        "docs/page.md:3",
    ]


@pytest.mark.parametrize(
    ("docstring", "fault"),
    [
        ("What a change became.", "'What', not with a verb"),
        ("The state of a lead.", "'The', not with a verb"),
        ("It returns a row.", "'It', not with a verb"),
        ("Returns a row.", "use the imperative"),
        ("return a row.", "lower case"),
        ("Return a row", "not a sentence"),
    ],
)
def test_a_docstring_that_does_not_begin_with_a_verb_is_found(
    tmp_path: Path, docstring: str, fault: str
) -> None:
    text = f'{SENTENCE}\n\ndef public():\n    """{docstring}"""\n'
    private = f'\n\ndef _private():\n    """{docstring}"""\n'
    findings = _findings(tmp_path, consumer__case=text + private)
    assert findings
    assert any(fault in each for each in findings)
    assert all(each.startswith("consumer/case.py:4: public: ") for each in findings)
    assert _findings(tmp_path, consumer__case=SENTENCE, tests__case=text) == []


def test_classes_modules_and_properties_may_begin_with_a_noun(tmp_path: Path) -> None:
    text = '''class Row:
    """One row."""

    @property
    def size(self) -> int:
        """The number of bytes."""
'''
    assert _findings(tmp_path, features__row=SENTENCE + text) == []
    findings = _findings(tmp_path, features__row='"""How rows look."""\n')
    assert ["'How', not with a noun" in each for each in findings] == [True]


def test_words_that_prose_avoids_are_found_in_docs_comments_and_docstrings(tmp_path: Path) -> None:
    findings = _findings(
        tmp_path,
        docs__page_md="To whom it belongs.\n",
        tests__case='"""Run beside it."""\n\nTEXT = "beside"  # to wh' + "om\n",
    )
    assert [each.split(": ")[0] for each in findings] == [
        "docs/page.md:1",
        "tests/case.py:1",
        "tests/case.py:3",
    ]


def test_a_finding_fails_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks/case.py").write_text("fate = 1\n")
    monkeypatch.setattr("tests.style.check", lambda: check(tmp_path))
    assert main(["benchmarks"]) == 1
    assert "benchmarks/case.py:1: fate" in capsys.readouterr().out
    assert main(["consumer"]) == 0
    assert main(["--count"]) == 1
    with pytest.raises(SystemExit):
        main(["nowhere"])
