"""The half of the comparison that runs in either tree: it imports nothing of its own tree.

python -P benchmarks/same_bytes_worker.py FOLDER with|without [BATCH]
"""

import itertools
import pickle
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from importlib import import_module
from pathlib import Path
from typing import Any

NOW_MS = 1_750_000_000_000  # the time of the pipelines' clock, and of the corpus
LEADS = 24  # leads of the database; the corpus has a few more

# Modules as the current tree names them, and as they were named before the consumer had rooms.
OLD_NAMES = {
    "consumer.scoring.pipeline": "consumer.pipeline",
    "consumer.scoring.leads": "consumer.leads",
    "consumer.scoring.versions": "consumer.versions",
    "leadstream.kafka.batch": "consumer.batch",
    "models.registry.versions": "models.registry",
    "models.registry.slot": "models.slot",
    "tests.trained_models": "tests.trained",
}


@dataclass(frozen=True, slots=True)
class CorpusMessage:
    """A consumed record with the methods of confluent-kafka's Message."""

    fields: tuple[str, int, int, bytes | None, bytes | None, Any, int | None]

    def topic(self) -> str:
        return self.fields[0]

    def partition(self) -> int:
        return self.fields[1]

    def offset(self) -> int:
        return self.fields[2]

    def key(self) -> bytes | None:
        return self.fields[3]

    def value(self) -> bytes | None:
        return self.fields[4]

    def headers(self) -> Any:
        return self.fields[5]

    def timestamp(self) -> tuple[int, int]:
        return (0, -1) if self.fields[6] is None else (1, self.fields[6])


def worker(folder: Path, numba: str, printed: int | None = None) -> int:
    """Run the corpus, and print one digest a batch, or all facts of the batch `printed`."""
    # An editable install would add the modules of its own tree to those of the other one.
    sys.meta_path[:] = [
        finder
        for finder in sys.meta_path
        if not getattr(finder, "__module__", "").startswith("__editable__")
    ]
    if numba == "without":
        sys.modules["numba"] = None  # type: ignore[assignment]  # importing it fails
    corpus = pickle.loads((folder / "corpus").read_bytes())
    place = itertools.count()
    for scenario in corpus["scenarios"]:
        line, leads = _pipeline(corpus, scenario)
        for committed, messages in scenario["batches"]:
            lines = _batch_lines(line, leads, committed, map(CorpusMessage, messages))
            number = next(place)
            if number == printed:
                print("\n".join(lines))
                return 0
            if printed is None:
                print(blake2b("\n".join(lines).encode("utf-8", "replace")).hexdigest())
    return 0


def _module(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError:
        return import_module(OLD_NAMES[name])


class CorpusRegistry:
    """A schema registry with the schemas of the corpus."""

    def __init__(self, schemas: dict[int, Any]) -> None:
        self._schemas = schemas

    def learn(self, numbers: Iterable[int]) -> None:
        """Everything is known already."""

    def schema(self, number: int) -> Any:
        errors = import_module("leadstream.errors")
        if number not in self._schemas:
            detail = f"The schema registry has no schema with id {number}."
            raise errors.Poison(errors.Reason.UNKNOWN_SCHEMA, "decode", detail)
        return self._schemas[number]


class CorpusLeads:
    """A database with some of the corpus's leads; it remembers the ids of each query."""

    def __init__(self, state: dict[str, Any]) -> None:
        lead = _module("consumer.scoring.leads").Lead
        odd: list[dict[str, Any]] = [
            {},
            {"created_at": None},
            {"created_at": NOW_MS + 9},
            {"lead_score": 1e14},
            {"source": None, "touchpoint_count": None},
        ]
        self._leads = {
            f"lead_{i}": lead(state | {"lead_score": float(i)} | odd[i % len(odd)], 40 * i)
            for i in range(LEADS)
        }
        self.queries: list[list[str]] = []

    def fetch(self, lead_ids: Iterable[str]) -> dict[str, Any]:
        self.queries.append(sorted(lead_ids))
        return {id_: self._leads[id_] for id_ in self.queries[-1] if id_ in self._leads}

    def close(self) -> None:
        """Close nothing."""


def _pipeline(corpus: Any, scenario: dict[str, Any]) -> tuple[Any, CorpusLeads]:
    codec = import_module("schemas.codec")
    slots, pipelines = _module("models.registry.slot"), _module("consumer.scoring.pipeline")
    trust = _module("tests.trained_models").TRUST
    models = _module("models.registry.versions").ModelRegistry(corpus["store"], trust)
    champion, challenger = slots.ModelSlot(models), slots.ChallengerSlot(models)
    if scenario["challenger"]:
        challenger.follow(champion.get().version)
        assert challenger.loaded is not None, challenger.refused
    registry = CorpusRegistry(corpus["schemas"])
    codecs = pipelines.Codecs(
        codec.Reader("LeadChanged", registry),
        codec.Reader("RescoreRequest", registry),
        codec.Writer("LeadPrediction"),
        codec.Writer("RescoreResult"),
        codec.Writer("LeadPrediction"),
    )
    leads = CorpusLeads(corpus["state"])
    line = pipelines.Pipeline(
        import_module("leadstream.settings").load_settings(scenario["settings"], None),
        champion,
        challenger,
        codecs,
        leads if scenario["database"] else None,
        versions=_module("consumer.scoring.versions").Versions(1 << 15)
        if scenario["versions"]
        else None,
        clock_ms=lambda: NOW_MS,
    )
    return line, leads


def _batch_lines(line: Any, leads: CorpusLeads, committed: bool, messages: Any) -> list[str]:
    """Describe all that comes of a batch, one fact a line."""
    batches = _module("leadstream.kafka.batch")
    result = line.process(
        _either(batches.Batch, "from_messages", "of")(list(messages), batches.ClosedBy.DRAIN)
    )
    _either(line, "commit_started", "begun")(result)
    _either(line, "commit_finished", "ended")(committed=committed)
    dispositions = _either(result, "dispositions", "fates")
    queries, leads.queries = leads.queries, []
    return [
        *(repr(tuple(record)) for record in result.records),
        repr([int(place) for place in result.sources]),
        *(
            f"letter {index} {letter.reason} {letter.stage} {letter.detail}"
            for index, letter in sorted(result.letters.items())
        ),
        repr(sorted((str(name), count) for name, count in dispositions.items())),
        repr((result.consumed, result.requests_answered, result.requests_dead_lettered)),
        repr(sorted(result.request_leads.items())),
        repr((result.queries, result.leads_asked, result.leads_found, result.late)),
        repr((result.model_version, result.challenger_version, result.challenger_error)),
        repr((sorted(result.challenged.items()), result.shadowed)),
        repr(sorted(result.imputed.items())),
        repr(sorted(result.coverage)),
        repr(sorted(key for part in result.scored for key in part.keys)),
        repr(queries),
    ]


def _either(owner: Any, name: str, old_name: str) -> Any:
    return getattr(owner, name) if hasattr(owner, name) else getattr(owner, old_name)


if __name__ == "__main__":
    sys.exit(worker(Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:4])))
