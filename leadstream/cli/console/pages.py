"""The pages: causes, letters, one letter, what a decision would do and did, the audit."""

import itertools
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from consumer.dead_letters.audit import Decision
from consumer.dead_letters.inspection import fields, hex_window
from consumer.dead_letters.letters import LetterId
from consumer.dead_letters.replay import RATE
from consumer.dead_letters.selection import Filter
from consumer.dead_letters.service import TriageService
from leadstream.cli.console.jobs import Job, Jobs, Kind
from leadstream.cli.console.selection import address, filter_of, number, words_of
from leadstream.cli.console.server import Answer
from leadstream.cli.dead_letters import text as words
from leadstream.cli.dead_letters.times import shown
from leadstream.errors import Reason, SettingsError, Transient, UserError

INSTALL = (
    "the console is made with jinja2, which is not installed here: pip install 'leadstream[triage]'"
)
ON_A_PAGE = 50
_OUTSIDE = {403, 413, 421}  # told to who was not let in


class Pages:
    """All that the console shows. A trouble that is told in a sentence is a page with that sentence."""

    def __init__(self, triage: TriageService, jobs: Jobs) -> None:
        try:
            import jinja2  # an extra
        except ImportError as error:
            raise UserError(INSTALL) from error
        self._triage = triage
        self._jobs = jobs
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters |= {
            "count": "{:,}".format,
            "moment": shown,
            "clean": words.clean,
            "iso": _iso,
            "zip": zip,
        }
        self._templates.globals |= {
            "words": words,
            "address": address,
            "reasons": [reason.value for reason in Reason],
            "topic": triage.settings.topics.dead_letters,
            "brokers": triage.settings.kafka_bootstrap_servers,
            "by": jobs.decided_by,
            "rate": RATE,
        }
        self._gets: list[tuple[str, Callable[..., Answer]]] = [
            ("/", self._causes),
            ("/letters", self._letters),
            (r"/letters/([\d-]+)", self._letter),
            (r"/jobs/(\d+)", self._job),
            ("/audit", self._audit),
        ]
        self._posts: list[tuple[str, Callable[..., Answer]]] = [
            ("/replay", self._rehearse),
            ("/discard", self._count),
            (r"/jobs/(\d+)/decide", self._decide),
            (r"/jobs/(\d+)/stop", self._stop),
        ]

    def get(self, path: str, said: Mapping[str, str], form_token: str) -> Answer | None:
        """A page to look at."""
        return self._found(self._gets, path, said, form_token)

    def post(self, path: str, said: Mapping[str, str]) -> Answer | None:
        """A form that was sent; the answer is where to look now."""
        return self._found(self._posts, path, said)

    def message(self, status: int, title: str, text: str, to: str | None = None) -> Answer:
        """A page with a sentence; `to` is where it goes by itself."""
        return self._page(
            "message.html", status, title=title, text=text, to=to, bare=status in _OUTSIDE
        )

    def _found(self, routes: Any, path: str, said: Mapping[str, str], *rest: str) -> Answer | None:
        for pattern, page in routes:
            if match := re.fullmatch(pattern, path, re.ASCII):
                try:
                    answer: Answer = page(said, *rest, *match.groups())
                except Transient as error:
                    return self.message(503, "No answer", f"{error}. Load the page again.")
                except SettingsError as error:
                    return self.message(400, "That is not understood", str(error))
                except UserError as error:
                    return self.message(404, "That cannot be done", str(error))
                return answer
        return None

    def _page(self, template: str, status: int = 200, **facts: object) -> Answer:
        facts = {"deciding": self._jobs.deciding(), "refresh": None, "bare": False} | facts
        return Answer(
            status, self._templates.get_template(template).render(facts).encode("utf-8", "replace")
        )

    def _causes(self, said: Mapping[str, str], form_token: str) -> Answer:
        chosen = words_of(said)
        groups = self._triage.groups(filter_of(chosen))
        total = sum(group.count for group in groups)
        return self._page(
            "causes.html",
            form_token=form_token,
            chosen=chosen,
            groups=groups,
            total=total,
            now=_now(),
        )

    def _letters(self, said: Mapping[str, str], form_token: str) -> Answer:
        chosen = words_of(said)
        skip = number("skip", said) or 0
        decided = self._triage.decided()
        found = self._triage.letters(filter_of(chosen), decided)
        some = list(itertools.islice(found, skip, skip + ON_A_PAGE + 1))
        return self._page(
            "letters.html",
            form_token=form_token,
            chosen=chosen,
            letters=some[:ON_A_PAGE],
            decided=decided,
            skip=skip,
            before=None if skip == 0 else max(0, skip - ON_A_PAGE),
            after=skip + ON_A_PAGE if len(some) > ON_A_PAGE else None,
        )

    def _letter(self, _said: Mapping[str, str], form_token: str, id_: str) -> Answer:
        letter, inside, decision = self._triage.letter(LetterId.parse(id_))
        readable = inside.value is not None and inside.record != "JSON"
        failure = inside.failure
        lines = (
            []
            if letter.value is None or readable
            else hex_window(letter.value, failure.offset if failure else 0)
        )
        return self._page(
            "letter.html",
            form_token=form_token,
            letter=letter,
            inside=inside,
            decision=decision,
            fields=list(fields(str(inside.record), inside.value)) if readable else [],
            lines=list(lines),
            only={"partition": str(letter.id.partition), "offset": str(letter.id.offset)},
        )

    def _job(self, _said: Mapping[str, str], form_token: str, number: str) -> Answer:
        job = self._jobs.get(int(number))
        return self._page(
            "job.html", form_token=form_token, job=job, refresh=None if job.over else 1
        )

    def _audit(self, said: Mapping[str, str], _form_token: str) -> Answer:
        skip = number("skip", said) or 0
        verdict = self._triage.verify()
        newest = []
        if not verdict.breaks:
            newest = sorted(self._triage.decisions(), key=_newest_last, reverse=True)
        some = newest[skip : skip + ON_A_PAGE]
        return self._page(
            "audit.html",
            verdict=verdict,
            decisions=some,
            before=None if skip == 0 else max(0, skip - ON_A_PAGE),
            after=skip + ON_A_PAGE if len(newest) > skip + ON_A_PAGE else None,
        )

    def _rehearse(self, said: Mapping[str, str]) -> Answer:
        mend = tuple(line.strip() for line in said.get("mend", "").splitlines() if line.strip())
        return self._look(Kind.REHEARSAL, said, mend)

    def _count(self, said: Mapping[str, str]) -> Answer:
        return self._look(Kind.COUNT, said)

    def _look(self, kind: Kind, said: Mapping[str, str], mend: tuple[str, ...] = ()) -> Answer:
        # What was decided already cannot be decided again, whatever the page before has shown.
        chosen = {name: text for name, text in words_of(said).items() if name != "all"}
        wanted: Filter = filter_of(chosen)
        return _to(self._jobs.look(kind, chosen, wanted, mend))

    def _decide(self, said: Mapping[str, str], job: str) -> Answer:
        rate = number("rate", said, least=1) or RATE
        return _to(self._jobs.decide(self._jobs.get(int(job)), said.get("because", ""), rate))

    def _stop(self, _said: Mapping[str, str], job: str) -> Answer:
        found = self._jobs.get(int(job))
        found.stop.set()
        return _to(found)


def _to(job: Job) -> Answer:
    return Answer(303, headers={"Location": f"/jobs/{job.number}"})


def _newest_last(decision: Decision) -> tuple[int, int, int]:
    return decision.decided_at, decision.letter.partition, decision.letter.offset


def _now() -> str:
    return datetime.now(UTC).strftime("%H:%M:%S")


def _iso(milliseconds: int) -> str:
    return shown(milliseconds).replace(" ", "T") + "Z"
