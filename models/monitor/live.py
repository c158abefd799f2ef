"""Quality in service: the newest judged predictions of each model version and variant."""

from bisect import insort
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.evaluate import EDGE, expected_calibration_error
from models.monitor.ledger import HorizonDaysOf, LabeledPrediction, LearnedUntilOf, known_at
from models.monitor.recent_calibration import WINDOW


@dataclass(frozen=True, slots=True)
class Quality:
    """The quality of one model version and variant over its window.

    Metrics are those of `models.evaluate`. `roc_auc` is None if only one outcome occurs.
    `base_rate` is the realized rate, `mean_probability` the stated one.
    """

    model_version: str
    variant: str
    judged: int
    base_rate: float
    mean_probability: float
    brier: float
    ece: float
    log_loss: float
    roc_auc: float | None


class LiveWindows:
    """The newest judged predictions of each model version and variant, in label order.

    Predictions as of a moment that their model learned from are left out: it has seen the outcome
    of those leads. `trained_on` counts them.
    """

    def __init__(
        self,
        horizon_days_of: HorizonDaysOf,
        max_size: int = WINDOW,
        learned_until_of: LearnedUntilOf = lambda _version: None,
    ) -> None:
        self.trained_on = 0
        self._horizon_days_of = horizon_days_of
        self._learned_until_of = learned_until_of
        self._max_size = max_size
        self._windows: dict[
            tuple[str, str], list[tuple[tuple[int, str, str], LabeledPrediction]]
        ] = {}
        self._leads: Counter[str] = (
            Counter()
        )  # how often each is in a window: many erased leads never were

    def add(self, labeled: Iterable[LabeledPrediction]) -> None:
        """Add judged predictions; one that is older than all of a full window changes nothing."""
        for one in labeled:
            made = one.prediction
            learned_until = self._learned_until_of(made.model_version)
            if learned_until is not None and made.occurred_at <= learned_until:
                self.trained_on += 1
                continue
            window = self._windows.setdefault((made.model_version, made.variant), [])
            order = (
                known_at(one, self._horizon_days_of(made.model_version)),
                made.lead_id,
                made.event_id,
            )
            insort(window, (order, one), key=lambda entry: entry[0])
            self._leads[made.lead_id] += 1
            if len(window) > self._max_size:
                self._count_removed(window.pop(0)[1].prediction.lead_id)

    def forget(self, lead_id: str) -> None:
        """Remove the predictions of an erased lead."""
        if not self._leads.pop(lead_id, 0):
            return
        for name, window in self._windows.items():
            self._windows[name] = [
                entry for entry in window if entry[1].prediction.lead_id != lead_id
            ]

    def _count_removed(self, lead_id: str) -> None:
        self._leads[lead_id] -= 1
        if not self._leads[lead_id]:
            del self._leads[lead_id]

    def window(self, model_version: str, variant: str) -> list[LabeledPrediction]:
        """Return the judged predictions of a version and variant, oldest first."""
        return [one for _, one in self._windows.get((model_version, variant), [])]

    def window_of_trees(self, model_version: str, variant: str) -> list[LabeledPrediction]:
        """Return the judged predictions of all versions with the same trees, oldest first."""
        same = [
            name
            for name in self._windows
            if (tree_version(name[0]), name[1]) == (tree_version(model_version), variant)
        ]
        entries = sorted(
            (entry for name in same for entry in self._windows[name]), key=lambda entry: entry[0]
        )
        return [one for _, one in entries]

    def qualities(self) -> list[Quality]:
        """Return the quality of each version and variant with predictions, sorted by name."""
        return [
            quality(name[0], name[1], window)
            for name in sorted(self._windows)
            if (window := self.window(*name))
        ]


def tree_version(model_version: str) -> str:
    """Return the part of a version that identifies its trees; patches keep the trees."""
    return model_version.rpartition(".")[0]


def quality(model_version: str, variant: str, window: Sequence[LabeledPrediction]) -> Quality:
    """Return the quality of a window that is not empty."""
    from sklearn.metrics import roc_auc_score  # noqa: PLC0415  # not needed to serve

    probability, labels = arrays(window)
    clipped = np.clip(probability, EDGE, 1 - EDGE)
    return Quality(
        model_version,
        variant,
        judged=len(labels),
        base_rate=float(labels.mean()),
        mean_probability=float(probability.mean()),
        brier=float(np.square(probability - labels).mean()),
        ece=expected_calibration_error(probability, labels),
        log_loss=float(-np.log(np.where(labels, clipped, 1 - clipped)).mean()),
        roc_auc=float(roc_auc_score(labels, probability))
        if labels.any() and not labels.all()
        else None,
    )


def arrays(window: Sequence[LabeledPrediction]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return stated probabilities (n,) and outcomes (n,)."""
    return np.array([one.prediction.probability for one in window]), np.array(
        [one.converted for one in window], dtype=bool
    )
