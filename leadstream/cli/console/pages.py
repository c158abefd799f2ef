"""The pages: causes, letters, one letter, previews and decisions, the audit."""

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
from leadstream.cli.console.jobs import Job, JobKind, Jobs
from leadstream.cli.console.query import address, filter_of, number, query_of
from leadstream.cli.console.server import PageResponse
from leadstream.cli.dead_letters import text
from leadstream.cli.dead_letters.times import format_time
from leadstream.cli.score_text import score_rows
from leadstream.errors import Reason, SettingsError, Transient, UserError
from leadstream.explanation import language
from leadstream.lead_fields import MAX_ID_CHARACTERS

INSTALL = "the console needs jinja2, which is not installed: pip install 'leadstream[triage]'"
ON_A_PAGE = 50
_OUTSIDE = {403, 413, 421}  # shown to browsers that are not signed in


class Pages:
    """The pages of the console. A known error is a page with one sentence."""

    def __init__(self, triage: TriageService, jobs: Jobs) -> None:
        try:
            import jinja2  # an extra
        except ImportError as error:
            raise UserError(INSTALL) from error
        self._triage = triage
        self._jobs = jobs
        self._words = language(triage.settings.language)
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters |= {
            "count": "{:,}".format,
            "moment": format_time,
            "clean": text.clean,
            "iso": _iso,
            "zip": zip,
        }
        self._templates.globals |= {
            "text": text,
            "address": address,
            "reasons": [reason.value for reason in Reason],
            "topic": triage.settings.topics.dead_letters,
            "brokers": triage.settings.kafka_bootstrap_servers,
            "by": jobs.decided_by,
            "rate": RATE,
        }
        self._gets: list[tuple[str, Callable[..., PageResponse]]] = [
            ("/", self._causes),
            ("/letters", self._letters),
            (r"/letters/([\d-]+)", self._letter),
            (r"/jobs/(\d+)", self._job),
            ("/leads", self._lead),
            ("/audit", self._audit),
        ]
        self._posts: list[tuple[str, Callable[..., PageResponse]]] = [
            ("/replay", self._dry_run),
            ("/discard", self._count),
            (r"/jobs/(\d+)/decide", self._decide),
            (r"/jobs/(\d+)/stop", self._stop),
        ]

    def get(self, path: str, params: Mapping[str, str], form_token: str) -> PageResponse | None:
        """Return a page."""
        return self._found(self._gets, path, params, form_token)

    def post(self, path: str, params: Mapping[str, str]) -> PageResponse | None:
        """Handle a form; the response redirects to the result."""
        return self._found(self._posts, path, params)

    def message(self, status: int, title: str, text: str, to: str | None = None) -> PageResponse:
        """Return a page with a sentence; `to` is the page that follows automatically."""
        return self._page(
            "message.html", status, title=title, text=text, to=to, bare=status in _OUTSIDE
        )

    def _found(
        self, routes: Any, path: str, params: Mapping[str, str], *rest: str
    ) -> PageResponse | None:
        for pattern, page in routes:
            if match := re.fullmatch(pattern, path, re.ASCII):
                try:
                    answer: PageResponse = page(params, *rest, *match.groups())
                except Transient as error:
                    return self.message(503, "No answer", f"{error}. Load the page again.")
                except SettingsError as error:
                    return self.message(400, "Wrong input", str(error))
                except UserError as error:
                    return self.message(404, "Not possible", str(error))
                return answer
        return None

    def _page(self, template: str, status: int = 200, **context: object) -> PageResponse:
        context = {"deciding": self._jobs.deciding(), "refresh": None, "bare": False} | context
        return PageResponse(
            status,
            self._templates.get_template(template).render(context).encode("utf-8", "replace"),
        )

    def _causes(self, params: Mapping[str, str], form_token: str) -> PageResponse:
        chosen = query_of(params)
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

    def _letters(self, params: Mapping[str, str], form_token: str) -> PageResponse:
        chosen = query_of(params)
        skip = number("skip", params) or 0
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

    def _letter(self, _params: Mapping[str, str], form_token: str, id_: str) -> PageResponse:
        letter, inspection, decision = self._triage.letter(LetterId.parse(id_))
        readable = inspection.value is not None and inspection.record != "JSON"
        failure = inspection.failure
        lines = (
            []
            if letter.value is None or readable
            else hex_window(letter.value, failure.offset if failure else 0)
        )
        return self._page(
            "letter.html",
            form_token=form_token,
            letter=letter,
            inspection=inspection,
            decision=decision,
            fields=list(fields(str(inspection.record), inspection.value)) if readable else [],
            lines=list(lines),
            only={"partition": str(letter.id.partition), "offset": str(letter.id.offset)},
        )

    def _job(self, _params: Mapping[str, str], form_token: str, number: str) -> PageResponse:
        job = self._jobs.get(int(number))
        return self._page(
            "job.html", form_token=form_token, job=job, refresh=None if job.finished else 1
        )

    def _lead(self, params: Mapping[str, str], _form_token: str) -> PageResponse:
        lead_id = params.get("lead", "").strip()
        if len(lead_id) > MAX_ID_CHARACTERS:
            raise SettingsError(f"lead: write an id of at most {MAX_ID_CHARACTERS} characters")
        record = self._triage.current_score(lead_id) if lead_id else None
        found = record.prediction if record else None
        return self._page(
            "lead.html",
            chosen={"lead": lead_id} if lead_id else {},
            record=record,
            rows=score_rows(found, self._words) if found else [],
        )

    def _audit(self, params: Mapping[str, str], _form_token: str) -> PageResponse:
        skip = number("skip", params) or 0
        report = self._triage.verify()
        newest = []
        if not report.breaks:
            newest = sorted(self._triage.decisions(), key=_newest_last, reverse=True)
        some = newest[skip : skip + ON_A_PAGE]
        return self._page(
            "audit.html",
            report=report,
            decisions=some,
            before=None if skip == 0 else max(0, skip - ON_A_PAGE),
            after=skip + ON_A_PAGE if len(newest) > skip + ON_A_PAGE else None,
        )

    def _dry_run(self, params: Mapping[str, str]) -> PageResponse:
        assignments = tuple(
            line.strip()
            for line in params.get("patch", params.get("mend", "")).splitlines()
            if line.strip()
        )
        return self._preview(JobKind.DRY_RUN, params, assignments)

    def _count(self, params: Mapping[str, str]) -> PageResponse:
        return self._preview(JobKind.COUNT, params)

    def _preview(
        self, kind: JobKind, params: Mapping[str, str], assignments: tuple[str, ...] = ()
    ) -> PageResponse:
        # Decided letters are never decided again, whatever the previous page has shown.
        chosen = {name: text for name, text in query_of(params).items() if name != "all"}
        wanted: Filter = filter_of(chosen)
        return _to(self._jobs.preview(kind, chosen, wanted, assignments))

    def _decide(self, params: Mapping[str, str], job: str) -> PageResponse:
        rate = number("rate", params, min_value=1) or RATE
        return _to(
            self._jobs.decide(
                self._jobs.get(int(job)), params.get("comment", params.get("because", "")), rate
            )
        )

    def _stop(self, _params: Mapping[str, str], job: str) -> PageResponse:
        found = self._jobs.get(int(job))
        found.stop.set()
        return _to(found)


def _to(job: Job) -> PageResponse:
    return PageResponse(303, headers={"Location": f"/jobs/{job.number}"})


def _newest_last(decision: Decision) -> tuple[int, int, int]:
    return decision.decided_at, decision.letter.partition, decision.letter.offset


def _now() -> str:
    return datetime.now(UTC).strftime("%H:%M:%S")


def _iso(milliseconds: int) -> str:
    return format_time(milliseconds).replace(" ", "T") + "Z"
