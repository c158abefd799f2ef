"""What a competent engineer writes first: features in a pandas frame, scikit-learn's predict_proba,
batch by batch.

The same model, features and predictions as the service, reasons and the share of unusual inputs
apart: a test compares them. Nothing of the service's own path is used but what training left in the
artifact.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd

from features.columns import MISSING, UNKNOWN
from features.distribution import percentile
from features.spec import CATEGORY, NUMBER
from leadstream.settings import Settings
from leadstream.text_forms import comparable

FITTED = "fitted.joblib"
_DAY_MS = 86_400_000
_ENGAGEMENT = ([-np.inf, 50, 80, np.inf], [2.0, 3.0, 4.0])


class PlainModel:
    """An artifact's parts, used as their documentation teaches."""

    @classmethod
    def open(cls, settings: Settings) -> "PlainModel":
        """The first model of the ground, as scikit-learn fitted it."""
        store = Path(settings.need("MODEL_STORE", "benchmarks.environment sets it"))
        return cls(*joblib.load(store.with_name(FITTED)))

    def __init__(self, artifact: Mapping[str, Any], manifest: Mapping[str, Any]) -> None:
        self._manifest = manifest
        self._features = artifact["features"]
        self._inputs = self._features.specification.inputs
        self._names = artifact["feature_names"]
        self._scaler, self._selector = artifact["scaler"], artifact["feature_selector"]
        self._forest, self._calibrator = artifact["model"], artifact["calibrator"]
        self._base = float(self._calibrator.probability(np.array([artifact["explain_base"]]))[0])
        self._threshold, self._grades = artifact["threshold"], artifact["grades"]

    def predictions(self, events: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """For each decoded LeadChanged with a state its LeadPrediction, without reasons and what
        its message knows.
        """
        leads = pd.DataFrame.from_records([event["lead"] for event in events])
        features, known = self.frame(leads, np.array([event["occurred_at"] for event in events]))
        rows = self._selector.transform(self._scaler.transform(features.to_numpy()))
        raw = self._forest.predict_proba(rows)[:, 1]
        missing = (~known).sum(axis=1).to_numpy()
        probability, low, high = self._calibrator.interval(raw, missing)
        coverage = known.mean(axis=1).to_numpy()
        cuts = [-np.inf, self._grades["C"], self._grades["B"], self._grades["A"], np.inf]
        grades = pd.cut(probability, cuts, right=False, labels=["D", "C", "B", "A"])
        numbers = [spec.name for spec in self._inputs if spec.kind == NUMBER]
        unknown = (~known[numbers]).to_numpy()
        return [
            {
                "prediction_id": f"{event['event_id']}-{self._manifest['version']}",
                "lead_id": event["lead_id"],
                "prediction": bool(probability[i] >= self._threshold),
                "probability": float(probability[i]),
                "probability_low": float(low[i]),
                "probability_high": float(high[i]),
                "confidence": float((1 - (high[i] - low[i])) * coverage[i]),
                "grade": grades[i],
                "raw_score": float(raw[i]),
                "threshold": self._threshold,
                "reasons": [],
                "base_probability": self._base,
                "target": "has_application",
                "horizon_days": self._manifest["label"]["horizon_days"],
                "valid_until": None,
                "feature_coverage": float(coverage[i]),
                "imputed": [name for name, lacks in zip(numbers, unknown[i], strict=True) if lacks],
                "model_used": self._manifest["name"],
                "model_version": self._manifest["version"],
                "model_sha256": self._manifest["artifact"]["sha256"],
                "variant": "champion",
                "event_id": event["event_id"],
                "change_type": event["change_type"],
                "lead_version": event["lead_version"],
                "coalesced_changes": 0,
                "occurred_at": event["occurred_at"],
            }
            for i, event in enumerate(events)
        ]

    def frame(
        self, leads: pd.DataFrame, as_of: np.ndarray[Any, Any]
    ) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The features (n, 31) as of these moments, ms UTC, and which inputs (n, 9) were present
        and valid.
        """
        known = pd.DataFrame({"created_at": leads["created_at"].notna()})
        f = pd.DataFrame(index=leads.index)
        for spec in self._inputs:
            if spec.kind == NUMBER:
                values = pd.to_numeric(leads[spec.name])
                known[spec.name] = values.between(spec.low, spec.high)
                f[spec.name] = values.where(
                    known[spec.name], self._features.distributions[spec.name].median
                )
                f[f"{spec.name}_missing"] = (~known[spec.name]).astype(float)
            elif spec.kind == CATEGORY:
                text = leads[spec.name].map(comparable, na_action="ignore").astype("string")
                text = text.str.strip().str.casefold()
                known[spec.name] = text.notna() & (text != "")
                codes = (
                    text.map(self._features.vocabularies[spec.name]).astype(float).fillna(UNKNOWN)
                )
                f[spec.name] = codes.where(known[spec.name], MISSING)
        f["campus_preference"] = f["campus_name"]
        created = pd.to_datetime(leads["created_at"], unit="ms", utc=True).dt
        f["created_month"] = created.month
        f["created_day_of_week"] = created.day_of_week
        f["created_hour"] = created.hour
        calendar = self._features.specification.calendar
        first = {
            "month": calendar.academic_year_month,
            "day": calendar.academic_year_day,
        }
        year = created.year
        begins = pd.to_datetime(pd.DataFrame({"year": year, **first}), utc=True)
        before = created.normalize() < begins
        begins = begins.where(
            ~before, pd.to_datetime(pd.DataFrame({"year": year - 1, **first}), utc=True)
        )
        f["academic_week"] = (created.normalize() - begins).dt.days // 7 + 1
        f["is_application_season"] = created.month.isin(calendar.season_months).astype(float)
        days = np.maximum(as_of - leads["created_at"], 0) / _DAY_MS
        score, engagement, touchpoints = (
            f["lead_score"],
            f["engagement_score"],
            f["touchpoint_count"],
        )
        f["days_since_creation"], f["days_squared"] = days, days * days
        f["score_squared"], f["score_cubed"], f["score_log"] = (
            score * score,
            score * score * score,
            np.log1p(score),
        )
        f["engagement_squared"], f["touchpoint_log"] = (
            engagement * engagement,
            np.log1p(touchpoints),
        )
        for name, short in (("lead_score", "score"), ("engagement_score", "engagement")):
            f[f"{short}_percentile"] = percentile(
                self._features.distributions[name], f[name].to_numpy()
            )
        f["touchpoint_percentile"] = percentile(
            self._features.distributions["touchpoint_count"], touchpoints.to_numpy(dtype=float)
        )
        f["score_engagement_interaction"] = score * engagement
        f["score_time_interaction"] = score / (1 + days)
        f["score_engagement_score_interaction"] = f["score_percentile"] * f["engagement_percentile"]
        f["score_touchpoint_interaction"] = score * touchpoints
        level = pd.cut(engagement, _ENGAGEMENT[0], right=False, labels=_ENGAGEMENT[1]).astype(float)
        f["engagement_level"] = level.where(known["engagement_score"], MISSING)
        return f[self._names].astype(float), known
