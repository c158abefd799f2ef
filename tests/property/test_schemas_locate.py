"""Decoding and looking for the place where it fails agree on whether it fails."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from leadstream.errors import Poison, Reason
from schemas.codec import Reader, Writer
from schemas.locate import first_failure
from tests.examples import examples
from tests.unit.pipelines import event

READER, WRITER = Reader("LeadChanged"), Writer("LeadChanged")

states = st.fixed_dictionaries(
    {},
    optional={
        "lead_score": st.none() | st.floats(0, 100),
        "status": st.none() | st.text(max_size=8),
        "numbers": st.dictionaries(st.text(max_size=4), st.floats(0, 1), max_size=3),
        "categories": st.dictionaries(st.text(max_size=4), st.text(max_size=4), max_size=3),
    },
)


@settings(max_examples=examples(300), deadline=None)
@given(state=states, without_state=st.booleans(), data=st.data())
def test_a_fault_that_only_one_of_reader_and_search_sees_would_send_its_reader_to_the_wrong_place(
    state: dict[str, Any], without_state: bool, data: st.DataObject
) -> None:
    value = WRITER.encode(event("lead_1", state, **({"lead": None} if without_state else {})))
    at = data.draw(st.integers(10, len(value)))
    change = data.draw(st.sampled_from(["nothing", "cut", "more", "byte", "insert"]))
    broken = {
        "nothing": value,
        "cut": value[:at],
        "more": value + b"\x00",
        "byte": value[: at - 1] + data.draw(st.binary(min_size=1, max_size=1)) + value[at:]
        if at > 10
        else value,
        "insert": value[:at] + data.draw(st.binary(min_size=1, max_size=4)) + value[at:],
    }[change]
    failure = first_failure(broken, *READER.layout(broken))
    reason = reason_of(broken)
    assert reason is (None if failure is None else Reason.DECODE_FAILED), failure
    assert failure is None or 10 <= failure.offset <= len(broken)


def reason_of(value: bytes) -> Reason | None:
    try:
        READER.decode(value)
    except Poison as poison:
        return poison.reason
    return None
