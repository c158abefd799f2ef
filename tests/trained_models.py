"""A small model, really trained on simulated leads, for every test that scores."""

import fcntl
import hashlib
import os
import pickle
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TypeVar

import joblib
import pandas as pd
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from models.registry.signing import Trust, key_id
from models.registry.versions import ModelRegistry
from models.serve.artifact import Trained
from models.serve.scorer import Model
from models.train.training import TrainOptions, train
from producer.simulator import SimulatedCrm
from producer.table import training_frame

Built = TypeVar("Built")

# Signs the tests' models, and is worth nothing anywhere else.
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
TRUST = Trust(KEY, {key_id(KEY.public_key()): KEY.public_key()})
START_MS = 1_704_067_200_000  # 2024-01-01
CREATED_MS = 1_735_689_600_000  # 2025-01-01


# Rows that a training explains, where a test does not look at how well.
EXPLAINED_ROWS = 300
# The folder of what the processes of one run share; tests/conftest.py makes it.
SHARED_FOLDER = "LEADSTREAM_TEST_FOLDER"


def build_shared(key: str, build: Callable[[], Built]) -> Built:
    """Return what `build` returns; of all processes of a run, one calls it."""
    folder = os.environ.get(SHARED_FOLDER)
    if folder is None:
        return build()
    path = Path(folder) / hashlib.sha256(key.encode()).hexdigest()
    with open(f"{path}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            path.write_bytes(pickle.dumps(build()))
    built: Built = pickle.loads(path.read_bytes())
    return built


@cache
def trained(seed: int = 1) -> Trained:
    """Return a model of 1,500 simulated leads by the audited recipe; each seed has its forest."""
    return build_shared(f"trained {seed}", lambda: _train_simulated(seed))


def _train_simulated(seed: int) -> Trained:
    crm = SimulatedCrm(1, start=START_MS, leads=1500)
    changes = [
        change
        for change in crm.changes()
        if change.state is not None and not (change.truth and change.truth.applied)
    ]
    table = training_frame(
        [change.lead_id for change in changes],
        [change.record["occurred_at"] for change in changes if change.record is not None],
        [change.state for change in changes if change.state is not None],
        [bool(change.truth and change.truth.converts) for change in changes],
    )
    return train(
        table,
        TrainOptions(created_at=CREATED_MS, seed=seed, recipe="audited", calibrator="venn_abers"),
    )


_trained: dict[str, Trained] = {}


def train_once(
    table: pd.DataFrame, options: TrainOptions, champion: Model | None = None
) -> Trained:
    """Return what `train` returns; a run of the tests trains once for equal arguments.

    A test that compares two runs of the training calls `train` itself.
    """
    key = f"{joblib.hash(table)} {options!r} {champion and champion.manifest!r}"
    if key not in _trained:
        _trained[key] = build_shared(key, lambda: train(table, options, champion=champion))
    return _trained[key]


def write_key(path: Path) -> Path:
    """The key as `<path>.pem` with its public half next to it, and that half as `<path>.pub` too;
    the first of them.
    """
    pem = serialization.Encoding.PEM
    private = KEY.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = KEY.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    for suffix, data in ((".pem", private), (".pem.pub", public), (".pub", public)):
        Path(f"{path}{suffix}").write_bytes(data)
    Path(f"{path}.pem").chmod(0o600)
    return Path(f"{path}.pem")


def promoted_store(folder: Path, seed: int = 1) -> str:
    """A model store in `folder` whose champion is such a model, and the public key next to it
    (.pub); its URL.
    """
    registry = ModelRegistry(str(folder), TRUST)
    registry.promote(registry.publish(trained(seed)))
    write_key(folder)
    return str(folder)
