"""Every command in the docs can be given as it is, and a test runs its verb or a list says why."""

import contextlib
import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from leadstream.cli.main import parser
from tests.docs.test_reference import PAGES, ROOT, verbs

TESTS = ROOT / "tests"
# Where a verb is run as a reader runs it: a file of tests, and the words in it that do.
RUN = {
    "config": ("docs/test_reference.py", '"config", "--json"'),
    "console": ("integration/test_console.py", '"console"'),
    "db migrate": ("docs/test_tutorial.py", ""),
    "dead-letters audit verify": ("integration/test_triage.py", '"audit", "verify"'),
    "dead-letters discard": ("integration/test_triage.py", '"discard"'),
    "dead-letters groups": ("docs/test_tutorial.py", ""),
    "dead-letters replay": ("docs/test_tutorial.py", ""),
    "dead-letters show": ("integration/test_triage.py", '"show"'),
    "dead-letters watch": ("integration/test_watch.py", '"dead-letters", "watch"'),
    "doctor": ("docs/test_tutorial.py", ""),
    "fields check": ("integration/test_fields.py", '"fields", "check"'),
    "fields suggest": ("integration/test_fields.py", '"fields", "suggest"'),
    "follow": ("integration/test_follow.py", '"follow"'),
    "history compact": ("integration/test_history.py", '"history", "compact"'),
    "history import": ("docs/test_import_examples.py", '"history", "import"'),
    "history status": ("integration/test_history.py", '"history", "status"'),
    "history write": ("integration/test_history.py", '"history", "write"'),
    "learn": ("integration/test_learn.py", '"learn"'),
    "import": ("unit/test_producer_presets.py", '"import", str(path), "--preset"'),
    "lead": ("docs/test_tutorial.py", ""),
    "losses": ("integration/test_offsets.py", '"losses"'),
    "mapping suggest": ("unit/test_producer_suggest.py", '"mapping", "suggest", str(path)'),
    "models compare": ("integration/test_challenger.py", '"compare"'),
    "models import-legacy": ("unit/test_models_legacy.py", '"import-legacy"'),
    "models keygen": ("unit/test_models_commands.py", '"keygen"'),
    "models list": ("docs/test_tutorial.py", ""),
    "models log": ("unit/test_models_commands.py", '"log"'),
    "models promote": ("unit/test_models_commands.py", '"promote"'),
    "models report": ("integration/test_report.py", '"report"'),
    "models retire": ("unit/test_models_commands.py", '"retire"'),
    "models rollback": ("unit/test_models_commands.py", '"rollback"'),
    "refresh": ("integration/test_refresh.py", '"refresh"'),
    "relay": ("docs/test_tutorial.py", ""),
    "rescore": ("docs/test_tutorial.py", ""),
    "retrain": ("unit/test_models_commands.py", 'call("retrain"'),
    "run": ("docs/test_tutorial.py", ""),
    "simulate": ("docs/test_tutorial.py", ""),
    "sink": ("docs/test_tutorial.py", ""),
    "topics create": ("docs/test_tutorial.py", ""),
    "train": ("docs/test_tutorial.py", ""),
    "translate": ("integration/test_translate.py", '"translate"'),
}
# What is no verb of ours, by how it begins; and the test that runs it, or why none does.
OTHERS = {
    "curl": "docs/test_tutorial.py",
    "docker compose": "tests/deploy/test_compose.py reads the file; no Docker engine is there",
    "kafka-configs.sh": "is part of a Kafka; the tests set the same through the admin client",
    "kcat": "integration/test_examples.py",
    "kill": "docs/test_tutorial.py",
    "kubectl": "tests/deploy/test_kubernetes.py checks what it is given; no cluster is started",
    "make bench": "integration/test_benchmarks.py",
    "make demo": "integration/test_demo.py",
    "make faults": "faults/test_one_broker.py",
    "make fuzz": "faults/test_fuzz.py",
    "make test": "is this",
    "pip install": "the tests run in an environment where it is done",
    "{ printf": "tests/deploy/test_kubernetes.py makes the same of the same files",
    "psql": "docs/test_tutorial.py",
    "cat crm.toml": "docs/test_tutorial.py",
    "python -m tests.faults": "faults/test_one_broker.py",
    "python examples/python/subscribe.py": "integration/test_examples.py",
    "python3 -m venv": "the tests run in one",
}


def displayed() -> Iterator[tuple[Path, str]]:
    """Yield page and text of every command, without its prompt, comment and settings."""
    for page in PAGES:
        text = page.read_text()
        blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
        lines = [
            each.strip()[2:]
            for block in blocks
            for each in block.replace("\\\n", " ").splitlines()
            if "$ " in each[:5]
        ]
        lines += re.findall(r"^    ((?:leadstream|make) .*)$", text, re.MULTILINE)
        for line in lines:
            for command in re.split(r" && | \| ", re.sub(r"\s+#.*", "", line)):
                without = re.sub(r"^(?:[A-Z_]+=\S+ )+", "", command).removesuffix("&").strip()
                if without and not without.startswith(("export ", ". ")):
                    yield page, without


COMMANDS = list(dict.fromkeys(displayed()))


def verb(command: str) -> str:
    words = command.removeprefix("leadstream ")
    return max(
        (known for known in verbs() if f"{words} ".startswith(f"{known} ")), key=len, default=""
    )


@pytest.mark.parametrize(
    ("page", "command"), COMMANDS, ids=[f"{page.stem}: {text[:60]}" for page, text in COMMANDS]
)
def test_a_command_that_cannot_be_given_as_it_stands_fails_its_reader(
    page: Path, command: str
) -> None:
    if not command.startswith("leadstream "):
        assert any(command.startswith(begin) for begin in OTHERS), command
        return
    output = io.StringIO()
    try:
        with contextlib.redirect_stderr(output):
            parser().parse_args(shlex.split(command)[1:])
    except SystemExit:
        pytest.fail(f"{page.name}: {output.getvalue()}")
    assert verb(command) in RUN, command


def test_what_is_listed_is_shown_and_run_where_the_list_says() -> None:
    texts = [command for _, command in COMMANDS]
    assert {verb(command) for command in texts if command.startswith("leadstream ")} | {
        "config"
    } == set(RUN)
    for begin, where in OTHERS.items():
        assert any(command.startswith(begin) for command in texts), begin
        assert not where.endswith(".py") or (TESTS / where).exists(), where
    tutorial = (ROOT / "docs" / "tutorial" / "index.md").read_text()
    for words, (file, text) in RUN.items():
        ran = tutorial if file == "docs/test_tutorial.py" else (TESTS / file).read_text()
        assert (text or f"leadstream {words}") in ran, (words, file)
