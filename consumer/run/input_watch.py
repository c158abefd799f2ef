"""The watch over the inputs that changes carry: one that never comes is no silent imputation."""

from collections.abc import Iterable

import numpy as np

from consumer.scoring.result import ScoredChanges
from features.columns import MISSING
from features.definitions import FEATURE_OF_INPUT
from features.spec import CATEGORY
from leadstream.log import Logger
from leadstream.process.status import Status
from models.monitor.inputs import learned_inputs
from models.serve.scorer import Model

WINDOW = 1_000


class InputWatch:
    """Warns while none of the last changes carries an input that the model learned from.

    `window` is the number of changes.
    """

    def __init__(self, status: Status, log: Logger, *, window: int = WINDOW) -> None:
        self._status = status
        self._log = log
        self._window = window
        self._model: Model | None = None
        self._names: list[str] = []
        self._places = np.empty(0, np.intp)
        self._absent_as = np.empty(0)
        self._since = np.empty(0, np.int64)
        self._reported: list[str] = []

    def serve(self, model: Model) -> None:
        """Start again for another model."""
        self._model, self._reported = model, []
        self._status.warn("inputs", None)
        columns = {name: place for place, name in enumerate(model.specification.outputs)}
        kinds = {spec.name: spec.kind for spec in model.specification.inputs}
        found: list[tuple[str, int, float]] = []
        for name in learned_inputs(model.manifest):
            category = kinds.get(name) == CATEGORY
            # A number has a column of its own that says whether it is missing.
            column = FEATURE_OF_INPUT.get(name, name) if category else f"{name}_missing"
            if name in kinds and column in columns:
                found.append((name, columns[column], float(MISSING) if category else 1.0))
        self._names = [name for name, _, _ in found]
        self._places = np.array([place for _, place, _ in found], np.intp)
        self._absent_as = np.array([value for _, _, value in found])
        self._since = np.zeros(len(found), np.int64)

    def see(self, scored: Iterable[ScoredChanges]) -> None:
        """Add the scored changes of a committed batch."""
        if self._model is None or not self._names:
            return
        for part in scored:
            values = part.scores.matrix.values[np.ix_(part.rows, self._places)]
            carried = (values != self._absent_as).any(axis=0)
            self._since = np.where(carried, 0, self._since + len(part.rows))
        absent = [self._names[row] for row in np.flatnonzero(self._since >= self._window)]
        if absent != self._reported:
            self._report(self._model, absent)

    def _report(self, model: Model, absent: list[str]) -> None:
        self._reported = absent
        why = (
            f"the champion {model.version} reads {', '.join(absent)}; 0 of the last "
            f"{self._window:,} changes carry it: send it with the changes, or train without it"
        )
        if absent:
            self._log.warning("inputs.absent", inputs=absent, detail=why)
        self._status.warn("inputs", why if absent else None)
