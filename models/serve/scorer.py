"""A model in service: lead states in; probability, interval, confidence, grade and reasons out."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features import Columns, FeatureMatrix, FittedFeatures, Specification
from features.calendar import DAY
from features.spec import LAST_MOMENT
from leadstream.dictionary import DictionaryColumn
from leadstream.errors import Poison, Reason
from models.serve.ageing import NEVER, Held, age_forest, bounds, first_change, in_sums
from models.serve.calibrators import Calibrator
from models.serve.explain import Strongest, contributions, in_points, strongest, team_sums
from models.serve.forest import Floats, pack

try:
    from models.serve.compiled import CompiledWalk
except ImportError:  # the extra `fast` is missing; numpy gives the same bits
    CompiledWalk = None  # type: ignore[assignment, misc]
Flags = NDArray[np.bool_]
Reasons = tuple[tuple[str, float], ...]

GRADES = ("A", "B", "C", "D")
TARGET = "has_application"
# How far ahead a change of the score is looked for.
HORIZON = 365 * DAY
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """The scores of n leads; every array is (n,), every column n long.

    - `raw`: the score of the trees. `probability`, `low`, `high`: calibrated.
    - `confidence`, `coverage`: in 0..1.
    - `prediction`: probability >= `threshold`.
    - `strongest`: the reasons, by indices into `fields`, in points of the probability.
    - `percentiles`: (n, count) where each reason's value stands in training, NaN if unknown.
    - `given_rates`: for each of `fields` (k,), the share of the training leads with a value that
      converted, NaN if unknown.
    - `base_probability`: the probability before any field is known. It and the points of all
      fields add up to `probability`.
    - `valid_until`: the first moment, ms UTC, at which time alone changes the probability by more
      than was asked for, or the grade; NEVER if none within HORIZON.
    - `failed`: rows without a meaning elsewhere. They do not change the bits of other rows.
    - `matrix`: the features that were scored.
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
    fields: tuple[str, ...]
    strongest: Strongest
    percentiles: Floats
    given_rates: Floats
    base_probability: float
    valid_until: NDArray[np.int64]
    failed: dict[int, Poison]
    matrix: FeatureMatrix

    @property
    def reasons(self) -> list[Reasons]:
        """Return (field, contribution) of each row, strongest first."""
        return self.strongest.named(self.fields)


class Model:
    """One version of a model, immutable and safe to share between threads.

    - `manifest`: the registry's description, with `version`, `name` (the records' `model_used`) and
      `sha256` as attributes.
    - `features`: names of the features that the forest uses.
    - `fields`: names of the inputs that these are computed from.
    - `base`: the raw score before any field is known; `base_probability`: its probability.
    - `target`, `horizon_days`: what the probability is about, and within how long.
    - `specification`: what the features are made from.
    - `calibrator`: makes probabilities of raw scores.
    """

    def __init__(self, artifact: Mapping[str, Any], manifest: Mapping[str, Any]) -> None:
        self.manifest: Mapping[str, Any] = MappingProxyType(dict(manifest))
        self.version = str(manifest["version"])
        self.name = str(manifest["name"])
        self.sha256 = str(manifest["artifact"]["sha256"])
        self._features: FittedFeatures = artifact["features"]
        self.calibrator: Calibrator = artifact["calibrator"]
        self._threshold = float(artifact["threshold"])
        # Ascending for searchsorted: D below the first cut, A from the last on.
        self._cuts = np.array([artifact["grades"][grade] for grade in ("C", "B", "A")])
        # The number of `score_time_interaction`, with its imputation.
        self._score_column = list(artifact["feature_names"]).index("lead_score")
        self._selected = np.flatnonzero(artifact["feature_selector"].get_support())
        self._mean = artifact["scaler"].mean_[self._selected]
        self._scale = artifact["scaler"].scale_[self._selected]
        self._forest = pack(artifact["model"])
        self._forest.check(len(self._selected))
        self.features = tuple(artifact["feature_names"][i] for i in self._selected)
        self.fields, groups = fields_of(self._features.specification, self.features)
        self._contributions = contributions(self._forest, groups, artifact.get("reasons"))
        self._ageing = age_forest(self._forest, self.features, self._mean, self._scale)
        self._bounds = bounds(self.calibrator, self._cuts)
        self._compiled = (
            CompiledWalk(self._forest, self._contributions, self._ageing)
            if CompiledWalk is not None
            else None
        )
        self.base = self._contributions.base
        self.base_probability = float(self.calibrator.probability(np.array([self.base]))[0])
        label = manifest.get("label") or {}
        self.target = str(label.get("target", TARGET))
        horizon = label.get("horizon_days")
        self.horizon_days = None if horizon is None else float(horizon)
        rates = (manifest.get("reasons") or {}).get("given_rates", {})
        self._given_rates = np.array([float(rates.get(field, np.nan)) for field in self.fields])
        self.specification = self._features.specification

    def score(
        self,
        columns: Columns,
        as_of: NDArray[np.int64],
        reasons: int = 0,
        change: float | None = None,
    ) -> Scores:
        """Score n leads as of the moments `as_of` (n,), ms UTC, with up to `reasons` reasons each.

        With a `change` it also finds until when each score holds.
        A row that cannot be scored is in `failed`. The bits of a row depend on its own input only.
        """
        matrix = self._features.transform(columns, as_of)
        failed = {
            row: Poison(Reason.FEATURE_FAILED, "features", why)
            for row, why in matrix.failed.items()
        }
        rows = self._rows(matrix.values, matrix.names, failed)
        sums, contributed, leaves = self._walk(rows, reasons > 0, change is not None)
        raw = self._forest.score_of(sums)
        probability, low, high = self.calibrator.interval(raw, matrix.missing)
        valid_until = np.full(len(rows), NEVER, np.int64)
        if change is not None:
            held = self._held(rows, matrix, as_of, self._bounds.around(probability, change))
            valid_until = self._first_change(held, matrix.given.created_at, sums, leaves)
        explained = self._strongest(contributed, probability, reasons)
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
            fields=self.fields,
            strongest=explained,
            percentiles=self._percentiles(matrix, explained),
            given_rates=self._given_rates,
            base_probability=self.base_probability,
            valid_until=valid_until,
            failed=failed,
            matrix=matrix,
        )

    def _walk(
        self, rows: NDArray[np.float32], explain: bool, keep_leaves: bool
    ) -> tuple[Floats, Floats, NDArray[Any]]:
        """Return (sums of leaf values (n,), contributions (n, k), leaves if they are kept).

        Compiled code gives the same bits, and numbers the leaves in its own way.
        """
        if self._compiled is not None:
            return self._compiled.sums(rows, explain, keep_leaves)
        leaves = self._forest.leaves(rows)
        contributed = self._contributions.take(leaves) if explain else np.empty((0, 0))
        return self._forest.sums(leaves), contributed, leaves

    def _held(
        self,
        rows: NDArray[np.float32],
        matrix: FeatureMatrix,
        as_of: NDArray[np.int64],
        bounds_: tuple[Floats, Floats],
    ) -> Held:
        """Return what the scores of rows hold until, by the bounds of their raw scores."""
        created = matrix.given.created_at
        low, high = (in_sums(self._forest, each) for each in bounds_)
        limits = np.minimum(as_of - created + HORIZON, LAST_MOMENT - created)
        score = matrix.values[:, self._score_column]
        return Held(rows, limits.astype(np.float64), score, low, high)

    def _first_change(
        self, held: Held, created: NDArray[np.int64], sums: Floats, leaves: NDArray[Any]
    ) -> NDArray[np.int64]:
        """Return the moment (n,) of the first change after the walk to these leaves, or NEVER."""
        if self._compiled is not None:
            found = self._compiled.first_change(held, sums, leaves)
        else:
            found = first_change(self._forest, self._ageing, held, leaves)
        return np.where(found == NEVER, NEVER, created + found)

    def _strongest(self, contributed: Floats, probability: Floats, count: int) -> Strongest:
        """Return the `count` strongest reasons of each row, in points of the probability."""
        if not count:
            nothing = np.empty((len(probability), 0))
            return Strongest(nothing.astype(np.intp), nothing)
        walk = self._compiled
        up, down = (team_sums if walk is None else walk.team_sums)(contributed)
        factors = in_points(
            up,
            down,
            probability,
            self.base_probability,
            lambda change: self.calibrator.probability(self._contributions.moved(change)),
        )
        return (strongest if walk is None else walk.strongest)(contributed, factors, count)

    def _percentiles(self, matrix: FeatureMatrix, explained: Strongest) -> Floats:
        """Return where the value of each reason stands in training: (n, count)."""
        flat = explained.indices.ravel()
        found = np.full(len(flat), np.nan)
        for field, name in enumerate(self.fields):
            at = np.flatnonzero(flat == field)
            rows = at // max(explained.indices.shape[1], 1)
            found[at] = self._features.percentiles(matrix.given, name, rows)
        return found.reshape(explained.indices.shape)

    def _rows(
        self, values: Floats, names: tuple[str, ...], failed: dict[int, Poison]
    ) -> NDArray[np.float32]:
        """Return the inputs of the forest (n, selected), scaled and cast as scikit-learn does.

        Adds a row to `failed` if float32 cannot hold one of its features, used by the forest or
        not: the selection of features must not decide which leads are refused.
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


def fields_of(
    specification: Specification, features: tuple[str, ...]
) -> tuple[tuple[str, ...], Floats]:
    """Return the inputs that features are computed from, and each feature's parts (features, k).

    A feature of several inputs goes to each in equal parts.
    """
    sources = [specification.fields_of(feature) for feature in features]
    used = {field for each in sources for field in each}
    fields = tuple(spec.name for spec in specification.inputs if spec.name in used)
    groups = np.zeros((len(features), len(fields)))
    for row, each in enumerate(sources):
        groups[row, [fields.index(field) for field in each]] = 1 / len(each)
    return fields, groups
