"""Three CRMs of other shapes, and the commands of the tutorial for a table of one's own.

`python -m tests.docs.own_table` follows them from a clone, with a real Kafka and a real Postgres,
and writes the transcripts to docs/tutorial/three-crms.md.
"""

import os
import re
import shutil
import subprocess
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psycopg

from leadstream.local.kafka import local_kafka
from leadstream.local.postgres import local_server
from leadstream.local.process import free_ports, scratch
from tests.docs.test_reference import ROOT

TUTORIAL = ROOT / "docs" / "tutorial" / "index.md"
PAGE = TUTORIAL.with_name("three-crms.md")
CRMS = Path(__file__).with_name("crms")
COLUMNS = 80
CONTINUED = " \\"


@dataclass(frozen=True, slots=True)
class CrmShape:
    """A CRM: the file that makes its tables, the zone of its times, and the lead to score."""

    name: str
    words: str
    zone: str
    lead_id: str
    migrate: str = ""

    def fill(self, url: str) -> None:
        """Make the tables and their rows in an empty database."""
        statements = (CRMS / f"{self.name}.sql").read_text("utf-8")
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(statements.encode())


SHAPES = (
    CrmShape(
        "contacts",
        "Ids are of the type uuid. Leads, names of sources, and applications are in three schemas. "
        "Times have no zone and are those of Berlin. A time marks a deleted lead.",
        "Europe/Berlin",
        "41872ac2-20e9-4c7c-9f70-430e198ff603",
    ),
    CrmShape(
        "school",
        'Names are in mixed case, such as `admissions."Prospect"`. Ids are whole numbers, statuses '
        "are in a table of their own, and times are those of India. One table has events of every "
        "kind, and one kind is an application.",
        "Asia/Kolkata",
        "2400",
    ),
    CrmShape(
        "party",
        "A view joins persons with their scores and with attributes in JSON. Ids are texts such as "
        "`P-0001/é`. A status marks deleted rows, and nothing says when a row was changed. The "
        "status also says who became a customer, so it is left out.",
        "America/New_York",
        "P-0001/é",
        " --without-triggers",
    ),
)


def section(number: int) -> list[str]:
    """Return the commands of a section of the tutorial, in order."""
    text = re.split(r"^## \d+\. ", TUTORIAL.read_text("utf-8"), flags=re.MULTILINE)[number]
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    lines = "".join(re.sub(r"\\\n +", "", block) for block in blocks).splitlines()
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


def commands_for(shape: CrmShape) -> list[str]:
    """Return the commands of the tutorial for a table of one's own, as the reader types them."""
    return [
        line.replace("Europe/Berlin", shape.zone)
        .replace("LEAD_ID", shape.lead_id)
        .replace("db migrate", f"db migrate{shape.migrate}")
        for line in section(9)
    ]


def as_script(commands: Iterable[str]) -> str:
    """Return a script that shows each command and runs it; the first failure ends it."""
    lines = ["set -euo pipefail"]
    for command in commands:
        lines += [f"printf '%s\\n' {_quoted('$ ' + command)}", command]
    return "\n".join([*lines, "jobs -p | xargs -r kill; wait", ""])


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def transcript(log: str, home: Path) -> str:
    """Return what a terminal of 80 columns shows of a log, without tables of figures."""
    log = log.replace(str(home), "~")
    lines: list[str] = []
    for line in log.splitlines():
        if line[:1] in tuple("┏┡└┃│"):
            lines += ["..."] if lines[-1:] != ["..."] else []
            continue
        lines += _folded(line.rstrip())
    return "\n".join(lines).strip("\n")


def _folded(text: str) -> list[str]:
    """Return the lines of a text that is too long; those of a command as a shell takes them."""
    if len(text) <= COLUMNS:
        return [text]
    ending, indent = (CONTINUED, "    ") if text.startswith("$ ") else ("", "")
    lines = textwrap.wrap(
        text, COLUMNS - len(ending), subsequent_indent=indent, break_on_hyphens=False
    )
    return [line + ending for line in lines[:-1]] + lines[-1:]


def _run(commands: Iterable[str], folder: Path, environ: dict[str, str]) -> str:
    """Run commands in a folder, and return what they print. Raises if one fails."""
    done = subprocess.run(
        [shutil.which("bash") or "/bin/bash", "-c", as_script(commands)],
        cwd=folder,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"exit code {done.returncode}:\n{done.stdout}")
    return transcript(done.stdout, Path(environ["HOME"]))


def _tries(folder: Path) -> Iterable[str]:
    """Yield the parts of the page: the install, and the try of each CRM in a new clone."""
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "COLUMNS": str(COLUMNS),
        "LEADSTREAM_LOG_FORMAT": "console",
        "REPOSITORY": str(ROOT),
        "PIP_CACHE_DIR": str(Path.home() / ".cache" / "pip"),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    install = [
        "git clone --quiet $REPOSITORY leadstream",
        "cd leadstream && python3 -m venv .venv && . .venv/bin/activate",
        "pip install --quiet --editable '.[fast]'",
    ]
    yield f"## Install\n\n```text\n{_run(install, folder, environ)}\n```\n"
    clone = folder / "leadstream"
    environ["PATH"] = f"{clone}/.venv/bin:{environ['PATH']}"
    for number, shape in enumerate(SHAPES, start=1):
        with local_kafka(print) as kafka, local_server(print) as server:
            shape.fill(server.url)
            values = {
                "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap,
                "DATABASE_URL": server.url,
                "MODEL_STORE": ".leadstream/models",
                "LEADSTREAM_FIELDS": "crm.toml",
            }
            text = "".join(f"{name}={value}\n" for name, value in values.items())
            (clone / ".env").write_text(text)
            (clone / ".env").chmod(0o600)
            environ["LEADSTREAM_HTTP_PORT"] = str(free_ports(1)[0])
            commands = ["leadstream topics create", *commands_for(shape)]
            ran = _run(commands, clone, environ)
        shutil.rmtree(clone / ".leadstream")
        (clone / "crm.toml").unlink()
        words = textwrap.fill(shape.words, 100)
        yield f"## {number}. {shape.name}\n\n{words}\n\n```text\n{ran}\n```\n"


HEAD = """# Three CRMs, from a clone to the first prediction

After this page you know what each command of [your own table](index.md#9-your-own-table) prints.
These are transcripts of three tries: each follows the tutorial, with a Kafka and a Postgres of its
own. `python -m tests.docs.own_table` makes the tables of `tests/docs/crms`, runs the commands, and
writes this page. The tables of figures that `train` prints are cut (`...`). Nothing is edited by
hand. The file `.env` has the four addresses.
"""


def main() -> None:
    """Write the page of the transcripts."""
    with scratch("tries") as folder:
        PAGE.write_text("\n".join([HEAD, *_tries(folder)]), "utf-8")


if __name__ == "__main__":
    main()
