"""Moving a champion's calibration after the outcomes: a new patch version with the same trees, through the same gate.

The base rate of a CRM moves with the season and with what marketing does; what a lead is worth beside another moves
slowly. So only the intercept of the calibration follows: log-odds are shifted until the mean of what was said is the
rate of what came. It is judged on the newer half of the outcomes by a shift that only the older half knew.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from leadstream.errors import UserError
from models.monitor.ledger import Judged
from models.monitor.live import trees_of
from models.monitor.recent_calibration import WINDOW, shift
from models.registry import gate
from models.registry.versions import CHAMPION, ModelRegistry
from models.serve.artifact import golden_rows
from models.serve.scorer import Model
from models.train import evaluate
from models.train.calibrate import Calibrator, log_odds
from models.train.curves import curves
from models.train.table import iso
from models.train.training import Trained

Floats = NDArray[np.float64]
Labels = NDArray[np.bool_]

LEAST_OUTCOMES = 40  # of either kind, in each half of the window
SURE = 2.576  # standard errors by which what was said must miss what came: 99 %, two-sided
SMALLEST = 0.01  # distance of the mean probability from the realised rate that is worth a version
METRICS_OF = "the newer half of the outcomes that the calibration follows, by a shift that only the older half knew"


@dataclass(frozen=True, slots=True)
class Recalibrated:
    """The patch version that came of it, its shift in log-odds from the trees' own calibration, and the gate's word."""

    version: str
    shift: float
    promoted: bool
    objections: list[str]


@dataclass(frozen=True, slots=True, eq=False)
class _Window:
    """Raw scores, outcomes and numbers of the leads, oldest first; all (n,)."""

    raw: Floats
    labels: Labels
    leads: NDArray[np.intp]

    @property
    def half(self) -> int:
        return len(self.raw) // 2

    @property
    def older(self) -> tuple[Floats, Labels]:
        return self.raw[: self.half], self.labels[: self.half]

    @property
    def newer(self) -> tuple[Floats, Labels]:
        return self.raw[self.half :], self.labels[self.half :]


def _window(known: Sequence[Judged]) -> _Window:
    return _Window(
        np.array([one.made.raw_score for one in known]),
        np.array([one.converted for one in known], dtype=np.bool_),
        np.unique([one.made.lead_id for one in known], return_inverse=True)[1],
    )


def follow_outcomes(
    registry: ModelRegistry, judged: Sequence[Judged], *, promote: bool, now_ms: int
) -> Recalibrated | None:
    """Publish the champion with its calibration moved after these outcomes, oldest first, and promote it if asked.

    Of them the newest WINDOW that trees of the champion's have scored count, whichever patch of it said so. None where
    they are too few, or do not show that the champion is off (by SURE standard errors and by SMALLEST), or where it
    would only be proposed a second time. Raises Transient and UserError as the registry does.
    """
    version = registry.resolve(CHAMPION)
    if version is None:
        return None
    window = _window(
        [one for one in judged if trees_of(one.made.model_version) == trees_of(version)][-WINDOW:]
    )
    if any(
        min(part.sum(), (~part).sum()) < LEAST_OUTCOMES
        for part in (window.older[1], window.newer[1])
    ):
        return None
    champion = registry.verify(version)
    if "options" not in champion.manifest:
        raise UserError(
            f"version {version} does not say how it was trained and cannot be recalibrated: train again"
        )
    if not _is_off(champion.calibrator.interval(window.raw)[0], window.labels):
        return None
    patch = _proposed(registry, version, window)
    if patch is not None and not promote:
        return None
    if patch is None:
        patch = registry.publish(
            _moved(champion, registry.artifact(version), window, now_ms), patch_of=version
        )
    objections: list[str] = []
    if promote:
        try:
            registry.promote(patch)
        except gate.GateRefused as refused:
            objections = refused.objections
    shift_of_patch = registry.show(patch)["calibration"]["shift"]
    return Recalibrated(patch, shift_of_patch, promote and not objections, objections)


def _proposed(registry: ModelRegistry, champion: str, window: _Window) -> str | None:
    """The newest patch of the champion's trees, if it was not promoted and these outcomes bear it out."""
    newest = [
        version for version in registry.versions() if trees_of(version) == trees_of(champion)
    ][-1]
    if newest == champion or _is_off(
        registry.verify(newest).calibrator.interval(window.raw)[0], window.labels
    ):
        return None
    return newest


def _is_off(probability: Floats, labels: Labels) -> bool:
    """Whether the mean of what was said misses the rate of what came, by D. Spiegelhalter's variance (1986)."""
    missed = float((labels - probability).sum())
    error = float(np.sqrt((probability * (1 - probability)).sum()))
    return abs(missed) > max(SURE * error, SMALLEST * len(labels))


def _moved(champion: Model, artifact: Mapping[str, Any], window: _Window, now_ms: int) -> Trained:
    """The champion's artifact and manifest with what the outcomes change."""
    present: Calibrator = artifact["calibrator"]
    older, (raw, labels) = window.older, window.newer
    stated = present.interval(raw)[0]
    tried = expit(log_odds(stated) + shift(present.interval(older[0])[0], older[1]))
    added = shift(present.interval(window.raw)[0], window.labels)
    calibrator = replace(present, shift=present.shift + added)
    manifest = dict(champion.manifest)
    options = manifest["options"]
    policy, cuts = manifest["threshold"], manifest["grades"]
    threshold = (
        policy["value"] if options["policy"].startswith("cost") else _move(policy["value"], added)
    )
    grades = (
        cuts["cuts"]
        if options["grades"]
        else {grade: _move(cut, added) for grade, cut in cuts["cuts"].items()}
    )
    probabilities = {
        "calibrated": tried,
        "raw": raw,
        "legacy_sigmoid": evaluate.legacy_sigmoid(raw),
    }
    thresholds = {name: threshold if name == "calibrated" else 0.5 for name in probabilities}
    performance = {
        name: evaluate.metrics(each, labels, thresholds[name])
        for name, each in probabilities.items()
    }
    moved = {
        **artifact,
        "calibrator": calibrator,
        "threshold": threshold,
        "grades": grades,
        "performance": performance,
    }
    judged = {"rows": len(raw), "base_rate": float(labels.mean())}
    manifest |= {
        "created_at": iso(now_ms),
        "calibration": {**manifest["calibration"], "shift": calibrator.shift},
        "recalibrated": {
            "from": champion.version,
            "outcomes": len(window.raw),
            "base_rate": float(window.labels.mean()),
            "added": added,
        },
        "threshold": {**policy, "value": threshold},
        "grades": {**cuts, "cuts": grades},
        "metrics": performance,
        "metrics_of": METRICS_OF,
        "data": {
            **manifest["data"],
            "judged": {"train": manifest["data"]["used"]["train"], "test": judged},
        },
        "against": gate.compared(champion, stated, tried, labels, window.leads[window.half :]),
        "curves": {name: curves(each, labels) for name, each in probabilities.items()},
    }
    unpublished = Model(moved, {**manifest, "version": "0.0.0", "artifact": {"sha256": ""}})
    golden = champion.manifest["golden"]
    manifest["golden"] = golden_rows(
        unpublished, [row["state"] for row in golden], [row["as_of"] for row in golden]
    )
    return Trained(moved, manifest)


def _move(probability: float, added: float) -> float:
    """A cut among probabilities, moved as they are: the same leads stay above it."""
    return float(expit(log_odds(np.array([probability])) + added)[0])
