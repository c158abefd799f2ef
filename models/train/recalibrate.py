"""Recalibration: a new patch version with the same trees, fitted to recent outcomes.

The base rate of a CRM moves with seasons and marketing; the ranking of leads moves slowly. So only
the intercept of the calibration moves: log-odds are shifted until the mean probability is the
realized rate. The metrics come from the newer half of the outcomes, with a shift fitted on the
older half. The patch passes the same gate as any version.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from leadstream.errors import UserError
from models import evaluate
from models.monitor.ledger import LabeledPrediction
from models.monitor.live import tree_version
from models.monitor.recent_calibration import WINDOW, shift
from models.registry import gate
from models.registry.versions import CHAMPION, ModelRegistry
from models.serve.artifact import Trained, golden_rows
from models.serve.calibrators import Calibrator, log_odds, move
from models.serve.scorer import Model
from models.train.curves import curves
from models.train.table import iso

Floats = NDArray[np.float64]
Labels = NDArray[np.bool_]

MIN_OUTCOMES = 40  # of either kind, in each half of the window
SURE = 2.576  # standard errors by which what was said must miss what came: 99 %, two-sided
SMALLEST = 0.01  # distance of the mean probability from the realised rate that is worth a version
METRICS_OF = (
    "the newer half of the outcomes that the calibration follows, by a shift that only the older "
    "half knew"
)


@dataclass(frozen=True, slots=True)
class Recalibrated:
    """The patch version, its shift in log-odds, and the objections of the gate.

    The shift is that from the trees' own calibration.
    """

    version: str
    shift: float
    promoted: bool
    objections: list[str]


@dataclass(frozen=True, slots=True, eq=False)
class _OutcomeWindow:
    """Raw scores, outcomes and lead numbers, oldest first; all (n,)."""

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


def _window(known: Sequence[LabeledPrediction]) -> _OutcomeWindow:
    return _OutcomeWindow(
        np.array([one.prediction.raw_score for one in known]),
        np.array([one.converted for one in known], dtype=np.bool_),
        np.unique([one.prediction.lead_id for one in known], return_inverse=True)[1],
    )


def recalibrate_champion(
    registry: ModelRegistry, labeled: Sequence[LabeledPrediction], *, promote: bool, now_ms: int
) -> Recalibrated | None:
    """Publish a patch of the champion that fits these outcomes, oldest first; promote it if asked.

    Uses the newest WINDOW outcomes of predictions by the champion's trees, whatever the patch.
    Returns None if there are too few, if the champion is not off (by SURE standard errors and by
    SMALLEST), or if the same patch has been proposed already. Raises Transient and UserError as the
    registry does.
    """
    version = registry.resolve(CHAMPION)
    if version is None:
        return None
    window = _window(
        [
            one
            for one in labeled
            if tree_version(one.prediction.model_version) == tree_version(version)
        ][-WINDOW:]
    )
    if any(
        min(part.sum(), (~part).sum()) < MIN_OUTCOMES for part in (window.older[1], window.newer[1])
    ):
        return None
    champion = registry.verify(version)
    if "options" not in champion.manifest:
        raise UserError(
            f"version {version} does not say how it was trained and cannot be recalibrated: train "
            "again"
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


def _proposed(registry: ModelRegistry, champion: str, window: _OutcomeWindow) -> str | None:
    """Return the newest patch of the champion's trees if it waits and fits these outcomes."""
    newest = [
        version
        for version in registry.versions()
        if tree_version(version) == tree_version(champion)
    ][-1]
    if newest == champion or _is_off(
        registry.verify(newest).calibrator.interval(window.raw)[0], window.labels
    ):
        return None
    return newest


def _is_off(probability: Floats, labels: Labels) -> bool:
    """Return whether the mean probability misses the rate, by Spiegelhalter's variance (1986)."""
    missed = float((labels - probability).sum())
    error = float(np.sqrt((probability * (1 - probability)).sum()))
    return abs(missed) > max(SURE * error, SMALLEST * len(labels))


def _moved(
    champion: Model, artifact: Mapping[str, Any], window: _OutcomeWindow, now_ms: int
) -> Trained:
    """Return the champion's artifact and manifest with the changes from the outcomes."""
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
        policy["value"] if options["policy"].startswith("cost") else move(policy["value"], added)
    )
    grades = (
        cuts["cuts"]
        if options["grades"]
        else {grade: move(cut, added) for grade, cut in cuts["cuts"].items()}
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
    evaluated = {"rows": len(raw), "base_rate": float(labels.mean())}
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
            "judged": {"train": manifest["data"]["used"]["train"], "test": evaluated},
        },
        "against": gate.compare(champion, stated, tried, labels, window.leads[window.half :]),
        "curves": {name: curves(each, labels) for name, each in probabilities.items()},
    }
    unpublished = Model(moved, {**manifest, "version": "0.0.0", "artifact": {"sha256": ""}})
    golden = champion.manifest["golden"]
    manifest["golden"] = golden_rows(
        unpublished, [row["state"] for row in golden], [row["as_of"] for row in golden]
    )
    return Trained(moved, manifest)
