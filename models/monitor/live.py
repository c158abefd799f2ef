"""How good probabilities are in service: the newest judged predictions of each model version and variant."""

from bisect import insort
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.monitor.ledger import HorizonDaysOf, Judged, known_at
from models.monitor.recent_calibration import WINDOW
from models.train.evaluate import EDGE, expected_calibration_error


@dataclass(frozen=True, slots=True)
class Quality:
    """What the window of one model version and variant shows; as `models.train.evaluate` defines each of the numbers.

    `roc_auc` is None where only one outcome occurs; `base_rate` is the realised, `mean_probability` the stated rate.
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


class Live:
    """The newest `most` judged predictions of each model version and variant, as their labels became known."""

    def __init__(self, horizon_days_of: HorizonDaysOf, most: int = WINDOW) -> None:
        self._horizon_days_of = horizon_days_of
        self._most = most
        self._windows: dict[tuple[str, str], list[tuple[tuple[int, str, str], Judged]]] = {}
        self._leads: Counter[str] = (
            Counter()
        )  # how often each is in a window: most of the erased never were

    def add(self, judged: Iterable[Judged]) -> None:
        """More predictions were judged; an older one than all of a full window changes nothing."""
        for one in judged:
            made = one.made
            window = self._windows.setdefault((made.model_version, made.variant), [])
            order = (
                known_at(one, self._horizon_days_of(made.model_version)),
                made.lead_id,
                made.event_id,
            )
            insort(window, (order, one), key=lambda entry: entry[0])
            self._leads[made.lead_id] += 1
            if len(window) > self._most:
                self._left(window.pop(0)[1].made.lead_id)

    def forget(self, lead_id: str) -> None:
        """Take the predictions of an erased lead out."""
        if not self._leads.pop(lead_id, 0):
            return
        for name, window in self._windows.items():
            self._windows[name] = [entry for entry in window if entry[1].made.lead_id != lead_id]

    def _left(self, lead_id: str) -> None:
        self._leads[lead_id] -= 1
        if not self._leads[lead_id]:
            del self._leads[lead_id]

    def window(self, model_version: str, variant: str) -> list[Judged]:
        """What is judged of a version and variant, oldest first."""
        return [one for _, one in self._windows.get((model_version, variant), [])]

    def of_trees(self, model_version: str, variant: str) -> list[Judged]:
        """What is judged of a version and of the others with the same trees, oldest first."""
        same = [
            name
            for name in self._windows
            if (trees_of(name[0]), name[1]) == (trees_of(model_version), variant)
        ]
        entries = sorted(
            (entry for name in same for entry in self._windows[name]), key=lambda entry: entry[0]
        )
        return [one for _, one in entries]

    def qualities(self) -> list[Quality]:
        """The quality of each version and variant of which anything is judged, in the order of their names."""
        return [
            quality(name[0], name[1], window)
            for name in sorted(self._windows)
            if (window := self.window(*name))
        ]


def trees_of(model_version: str) -> str:
    """The part of a version that says which trees it has: patches only state their scores otherwise."""
    return model_version.rpartition(".")[0]


def quality(model_version: str, variant: str, window: Sequence[Judged]) -> Quality:
    """The numbers of a window that is not empty."""
    from sklearn.metrics import roc_auc_score  # noqa: PLC0415  # `run` imports this module, and does without

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


def arrays(window: Sequence[Judged]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Stated probabilities (n,) and outcomes (n,)."""
    return np.array([one.made.probability for one in window]), np.array(
        [one.converted for one in window], dtype=bool
    )
