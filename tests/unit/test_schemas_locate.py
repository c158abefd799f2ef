"""The place where an Avro body stops being what its schema says."""

import struct

import pytest

from leadstream.errors import Poison
from schemas.codec import Reader, Writer
from schemas.locate import DecodeFailure, first_failure
from tests.unit.pipelines import event

READER = Reader("LeadChanged")
VALUE = Writer("LeadChanged").encode(
    event("lead_1", {"status": "MARK", "categories": {"source": "AAAA"}})
)


def located(value: bytes) -> DecodeFailure | None:
    return first_failure(value, *READER.layout(value))


def test_a_value_that_reads_well_has_no_failure() -> None:
    assert located(VALUE) is None


def test_the_first_byte_that_is_no_utf8_and_its_field_are_named() -> None:
    broken = VALUE.replace(b"MARK", b"MA\xffK")
    assert located(broken) == DecodeFailure(
        VALUE.index(b"MARK") + 2, "lead.status", "the text is not UTF-8"
    )


def test_an_unknown_symbol_is_named_with_its_field() -> None:
    at = VALUE.index(b"lead_1", VALUE.index(b"event of lead_1") + 15) + 6
    assert located(VALUE[:at] + b"\x7e" + VALUE[at + 1 :]) == DecodeFailure(
        at, "change_type", "the schema has no symbol 63, only 0 to 3"
    )


def test_a_text_that_claims_more_bytes_than_there_are_is_found_at_its_length() -> None:
    cut = VALUE[: VALUE.index(b"MARK") + 1]
    assert located(cut) == DecodeFailure(
        VALUE.index(b"MARK") - 1, "lead.status", "a length of 4 bytes, but only 1 are left"
    )


def test_a_value_cut_in_a_number_ends_in_that_field() -> None:
    cut = VALUE[: VALUE.index(struct.pack("<d", 62.0)) + 5]
    assert located(cut) == DecodeFailure(len(cut), "lead.engagement_score", "the value ends here")


def test_bytes_after_the_record_are_found_where_it_ends() -> None:
    assert located(VALUE + b"\x00\x01") == DecodeFailure(
        len(VALUE), "after the last field", "the record ends, and bytes follow: 2"
    )


def test_a_fault_in_a_map_names_the_entry() -> None:
    assert located(VALUE.replace(b"AAAA", b"AA\xc0A")) == DecodeFailure(
        VALUE.index(b"AAAA") + 2, "lead.categories[0]", "the text is not UTF-8"
    )


def test_a_branch_that_no_union_has_is_named() -> None:
    at = VALUE.index(struct.pack("<d", 62.0)) - 1
    found = located(VALUE[:at] + b"\x08" + VALUE[at + 1 :])
    assert found == DecodeFailure(
        at, "lead.engagement_score", "the union has no branch 4, only 0 to 1"
    )


@pytest.mark.parametrize("number", [b"\xff" * 12, b"\x80" * 20])
def test_a_number_without_end_is_a_failure_and_no_loop(number: bytes) -> None:
    value = VALUE[:10] + number
    assert located(value) == DecodeFailure(10, "event_id", "a number of more than 10 bytes")
    with pytest.raises(Poison):
        READER.decode(value)
