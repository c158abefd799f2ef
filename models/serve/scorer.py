"""A model in service: lead states in, calibrated probabilities with interval, confidence, grade and reasons out."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features import Columns, FeatureMatrix, FittedFeatures
from leadstream.dictionary import DictionaryColumn
from leadstream.errors import Poison, Reason
from models.serve.explain import Strongest, contributions, strongest
from models.serve.forest import Floats, pack
from models.train.calibrate import Calibrator

try:
    from models.serve.compiled import CompiledWalk
except ImportError:  # without the extra `fast`; the bits are the same
    CompiledWalk = None  # type: ignore[assignment, misc]
Flags = NDArray[np.bool_]
Reasons = tuple[tuple[str, float], ...]

GRADES = ("A", "B", "C", "D")
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """What a model says of n leads; every array is (n,), every column n long.

    `raw` is the trees' own score; `probability`, `low` and `high` are calibrated; `confidence` and `coverage` lie in
    0..1; `prediction` is probability >= `threshold`; `strongest` are the reasons by the numbers of `features`, in units
    of the raw score. Rows in `failed` carry no meaning but there: the others have the same bits as without them.
    `matrix` is what was scored.
    """

    raw: Floats
    probability: Floats
    low: Floats
    high: Floats
    confidence: Floats
    prediction: Flags
    grade: DictionaryColumn
    coverage: Floats
    threshold: float
    imputed: DictionaryColumn
    features: tuple[str, ...]
    strongest: Strongest
    failed: dict[int, Poison]
    matrix: FeatureMatrix

    @property
    def reasons(self) -> list[Reasons]:
        """(feature, contribution) of each row, strongest first."""
        return self.strongest.named(self.features)


class Model:
    """One version of a model, immutable and safe to share between threads.

    `manifest` is what the registry says of it, with `version`, `name` (the records' `model_used`) and `sha256` at hand.
    `features` are the names of the features that the forest uses, `base` the raw score before any of them is known,
    `specification` what the features are made from, `calibrator` what makes probabilities of raw scores.
    """

    def __init__(self, artifact: Mapping[str, Any], manifest: Mapping[str, Any]) -> None:
        self.manifest: Mapping[str, Any] = MappingProxyType(dict(manifest))
        self.version = str(manifest["version"])
        self.name = str(manifest["name"])
        self.sha256 = str(manifest["artifact"]["sha256"])
        self._features: FittedFeatures = artifact["features"]
        self.calibrator: Calibrator = artifact["calibrator"]
        self._threshold = float(artifact["threshold"])
        # Ascending, as searchsorted wants them: D below the first cut, A from the last on.
        self._cuts = np.array([artifact["grades"][grade] for grade in ("C", "B", "A")])
        self._selected = np.flatnonzero(artifact["feature_selector"].get_support())
        self._mean = artifact["scaler"].mean_[self._selected]
        self._scale = artifact["scaler"].scale_[self._selected]
        self._forest = pack(artifact["model"])
        self._forest.check(len(self._selected))
        self._contributions = contributions(self._forest, len(self._selected))
        self._compiled = (
            CompiledWalk(self._forest, self._contributions) if CompiledWalk is not None else None
        )
        self.features = tuple(artifact["feature_names"][i] for i in self._selected)
        self.base = self._contributions.base
        self.specification = self._features.specification

    def score(self, columns: Columns, as_of: NDArray[np.int64], reasons: int = 0) -> Scores:
        """Score n leads as of the moments `as_of` (n,), ms UTC, with up to `reasons` reasons each.

        A row that cannot be scored is in `failed`; a row's bits depend on its own input only.
        """
        matrix = self._features.transform(columns, as_of)
        failed = {
            row: Poison(Reason.FEATURE_FAILED, "features", why)
            for row, why in matrix.failed.items()
        }
        rows = self._rows(matrix.values, matrix.names, failed)
        raw, explained = self._walk(rows, reasons)
        probability, low, high = self.calibrator.interval(raw, matrix.missing)
        return Scores(
            raw=raw,
            probability=probability,
            low=low,
            high=high,
            confidence=np.clip(
                (1.0 - (high - low)) * matrix.coverage * (1.0 - matrix.unusual), 0.0, 1.0
            ),
            prediction=probability >= self._threshold,
            grade=DictionaryColumn(
                3 - np.searchsorted(self._cuts, probability, side="right"), GRADES
            ),
            coverage=matrix.coverage,
            threshold=self._threshold,
            imputed=matrix.imputed,
            features=self.features,
            strongest=explained,
            failed=failed,
            matrix=matrix,
        )

    def _walk(self, rows: NDArray[np.float32], reasons: int) -> tuple[Floats, Strongest]:
        """(raw scores (n,), so many reasons of each row); compiled code, where there is any, gives the same bits."""
        nothing = np.empty((len(rows), 0))
        if self._compiled is None:
            leaves = self._forest.leaves(rows)
            contributed = self._contributions.of(leaves) if reasons else nothing
            return self._forest.probability(leaves), strongest(contributed, reasons)
        sums, changes = self._compiled.sums(rows, reasons > 0)
        contributed = (
            self._contributions.points(changes, len(self._forest.roots)) if reasons else nothing
        )
        return self._forest.score_of(sums), self._compiled.strongest(contributed, reasons)

    def _rows(
        self, values: Floats, names: tuple[str, ...], failed: dict[int, Poison]
    ) -> NDArray[np.float32]:
        """The forest's inputs (n, selected), scaled in float64 and cast as scikit-learn does.

        A row with a feature that float32 cannot hold is added to `failed`, whether or not the forest uses that feature:
        which features were selected must not decide which leads are refused.
        """
        selected = (values[:, self._selected] - self._mean) / self._scale
        too_large = np.abs(values) > _LARGEST
        beyond = too_large.any(axis=1) | (np.abs(selected) > _LARGEST).any(axis=1)
        for row in np.flatnonzero(beyond).tolist():
            named = [name for name, large in zip(names, too_large[row], strict=True) if large]
            what = ", ".join(named) or "a scaled feature"
            detail = f"{what} is too large for the model's 32-bit numbers"
            failed.setdefault(row, Poison(Reason.SCORING_FAILED, "score", detail))
        selected[beyond] = 0.0
        rows: NDArray[np.float32] = selected.astype(np.float32)
        return rows
