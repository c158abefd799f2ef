"""What must hold for any messages in any batches: a challenger in the shadow leaves the champion's
stream as it is.
"""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.scoring.result import BatchResult
from leadstream.variants import challenged
from models.registry.slot import ChallengerSlot, ModelSlot
from models.registry.versions import ModelRegistry
from tests.property.test_consumer_batches import LEADS, SPLITS, common, kinds, messages, split
from tests.trained_models import TRUST, promoted_store, trained
from tests.unit.pipelines import PREDICTIONS, SHADOW, batch, on, pipeline, predictions


@pytest.fixture(scope="module")
def slots(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelSlot, ChallengerSlot]:
    folder: Path = tmp_path_factory.mktemp("models")
    registry = ModelRegistry(promoted_store(folder), TRUST)
    registry.promote(registry.publish(trained(2)), "challenger")
    rival = ChallengerSlot(registry)
    rival.follow("1.0.0")
    return ModelSlot(registry), rival


def outcomes(
    slots: tuple[ModelSlot, ChallengerSlot],
    drawn: list[tuple[Any, ...]],
    sizes: list[int],
    *,
    alone: bool,
    share: str = "0",
    coalescing: bool = True,
) -> list[BatchResult]:
    champion, rival = slots
    line = pipeline(
        champion,
        LEADS,
        challenger=ChallengerSlot(ModelRegistry("/nowhere", TRUST)) if alone else rival,
        LEADSTREAM_CHALLENGER_SHARE=share,
        LEADSTREAM_COALESCE=str(coalescing),
    )
    return [line.process(batch(*part)) for part in split(messages(drawn), sizes) if part]


@common
@given(drawn=st.lists(kinds, max_size=25), sizes=SPLITS, coalescing=st.booleans())
def test_a_challenger_in_the_shadow_that_changes_one_byte_outside_of_it_harms_the_champion(
    slots: tuple[ModelSlot, ChallengerSlot],
    drawn: list[tuple[Any, ...]],
    sizes: list[int],
    coalescing: bool,
) -> None:
    without = outcomes(slots, drawn, sizes, alone=True, coalescing=coalescing)
    with_ = outcomes(slots, drawn, sizes, alone=False, coalescing=coalescing)
    for one, other in zip(without, with_, strict=True):
        assert [output for output in other.outputs if output.topic != SHADOW] == one.outputs
        assert (other.dispositions, other.request_leads, other.imputed, other.coverage) == (
            one.dispositions,
            one.request_leads,
            one.imputed,
            one.coverage,
        )
        assert [output.key for output in on(other, SHADOW)] == [
            output.key for output in on(other, PREDICTIONS)
        ]


@common
@given(drawn=st.lists(kinds, max_size=25), sizes=SPLITS, share=st.floats(0.01, 1))
def test_in_a_split_a_lead_that_changes_its_variant_tells_nothing_of_either(
    slots: tuple[ModelSlot, ChallengerSlot],
    drawn: list[tuple[Any, ...]],
    sizes: list[int],
    share: float,
) -> None:
    without = outcomes(slots, drawn, sizes, alone=True)
    found = outcomes(slots, drawn, sizes, alone=False, share=str(share))
    assert [outcome.dispositions for outcome in found] == [
        outcome.dispositions for outcome in without
    ]
    for outcome in found:
        assert on(outcome, SHADOW) == []
        for prediction in predictions(outcome):
            theirs = challenged(prediction["lead_id"], share)
            expected = ("challenger", "1.1.0") if theirs else ("champion", "1.0.0")
            assert (prediction["variant"], prediction["model_version"]) == expected
