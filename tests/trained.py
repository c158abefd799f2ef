"""A small model, really trained on simulated leads, for every test that scores."""

from dataclasses import replace
from functools import cache
from pathlib import Path

from models.registry import ModelRegistry
from models.train import Trained, TrainOptions, train
from producer.simulator import SimulatedCrm
from producer.table import training_frame

START_MS = 1_704_067_200_000  # 2024-01-01
CREATED_MS = 1_735_689_600_000  # 2025-01-01


@cache
def trained(seed: int = 1) -> Trained:
    """A model of 1,500 simulated leads; another seed grows another forest on them."""
    crm = SimulatedCrm(1, start=START_MS, leads=1500)
    changes = [
        change for change in crm.changes() if change.state is not None and not (change.truth and change.truth.applied)
    ]
    table = training_frame(
        [change.lead_id for change in changes],
        [change.record["occurred_at"] for change in changes if change.record is not None],
        [change.state for change in changes if change.state is not None],
        [bool(change.truth and change.truth.converts) for change in changes],
    )
    return train(table, replace(TrainOptions(created_at=CREATED_MS), seed=seed))


def promoted_store(folder: Path, seed: int = 1) -> str:
    """A model store in `folder` whose champion is such a model; its URL."""
    registry = ModelRegistry(str(folder))
    registry.promote(registry.publish(trained(seed)))
    return str(folder)
