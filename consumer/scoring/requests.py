"""What a rescore request comes to: its leads answered one by one, and the one result that tells of them all."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from consumer.scoring.decode import Request
from leadstream.errors import Poison
from leadstream.kafka.config import Record

# As many as a batch of changes has by default: one query and one walk through the trees for each slice.
SLICE = 2_000


@dataclass(frozen=True, slots=True, eq=False)
class Reply:
    """A request about the leads as of `occurred_at` (ms UTC), and what became of each so far.

    `answers` has what the result says of a scored lead, `errors` the code and the sentence of one that is not;
    `outputs` are the predictions, in the request's order.
    """

    request: Request
    occurred_at: int
    errors: dict[str, tuple[str, str]]
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    outputs: list[Record] = field(default_factory=list)

    def refuse(self, lead_id: str, poison: Poison) -> None:
        """This lead cannot be scored."""
        self.errors[lead_id] = poison.reason.value, poison.detail

    def counts(self) -> Counter[str]:
        """How its leads were answered: predicted, or the code of the error."""
        return Counter({"predicted": len(self.answers)}) + Counter(
            code for code, _ in self.errors.values()
        )

    def result(self, model_name: str) -> dict[str, Any]:
        """The RescoreResult."""
        ids, answers, errors = self.request.lead_ids, self.answers, self.errors
        return {
            "request_id": self.request.request_id,
            "predictions": [{"lead_id": id_, **answers[id_]} for id_ in ids if id_ in answers],
            "model_used": model_name,
            "total_processed": len(ids),
            "successful_predictions": len(answers),
            "errors": [
                {"lead_id": id_, "code": errors[id_][0], "detail": errors[id_][1]}
                for id_ in ids
                if id_ in errors
            ],
        }


Asked = tuple[Reply, str]


def sliced(replies: Iterable[Reply]) -> list[list[Asked]]:
    """The leads that are to be scored, whatever request they belong to, at most SLICE at a time."""
    asked = [
        (reply, id_)
        for reply in replies
        for id_ in reply.request.lead_ids
        if id_ not in reply.errors
    ]
    return [asked[at : at + SLICE] for at in range(0, len(asked), SLICE)]
