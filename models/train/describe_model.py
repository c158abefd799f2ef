"""The artifact and the manifest of a trained model, but for what training itself measured."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features import FittedFeatures, Specification
from models import evaluate
from models.serve import calibrators
from models.serve.artifact import MANIFEST_VERSION, library_versions
from models.serve.explain import contributions
from models.serve.forest import pack
from models.serve.scorer import TARGET
from models.train.calibrated_recipe import CalibratedRecipe
from models.train.options import TrainOptions, is_sample
from models.train.table import TrainingPart, iso

METRICS_OF = (
    "the same recipe one period earlier: fitted and calibrated on the part that `judged` shows as "
    "train, metrics from its test part; the model itself was then fitted on the part that `used` "
    "shows"
)
OF_THE_SAMPLE = "; at the rate of the sample, before the shift to the rate of the population"
_GOLDEN_ROWS = 8
# What a table of another source calls its outcome.
OWN_TARGET = "converted"


def build_artifact(
    final: CalibratedRecipe, performance: dict[str, evaluate.Metrics]
) -> dict[str, Any]:
    """Return the dictionary that is pickled: the audited keys first, then those they lacked."""
    fitted = final.fitted
    names = fitted.features.specification.outputs
    selected = [names[i] for i in np.flatnonzero(fitted.selector.get_support())]
    importance = zip(selected, fitted.importance.tolist(), strict=True)
    return {
        "model": fitted.model,
        "scaler": fitted.scaler,
        "feature_selector": fitted.selector,
        "feature_names": list(names),
        "performance": performance,
        "feature_importance": dict(sorted(importance, key=lambda item: (-item[1], item[0]))),
        "features": fitted.features,
        "calibrator": final.calibrator,
        "threshold": final.threshold,
        "grades": final.grades,
        "explain_base": contributions(pack(fitted.model), np.eye(len(selected))).base,
    }


def describe_model(
    artifact: Mapping[str, Any],
    final: CalibratedRecipe,
    options: TrainOptions,
    labels: NDArray[np.bool_],
) -> dict[str, Any]:
    fitted = final.fitted
    rate = options.base_rate if options.kept is None else options.kept.rate(labels)
    specification: FittedFeatures = fitted.features
    return {
        "manifest_version": MANIFEST_VERSION,
        "name": fitted.recipe.model_name,
        "created_at": iso(options.created_at),
        "recipe": {"name": fitted.recipe.name, "steps": fitted.steps, "seed": options.seed},
        "options": {
            "recipe": options.recipe,
            "calibrator": options.calibrator,
            "policy": options.policy.text,
            "grades": dict(options.grades) if options.grades else None,
            "seed": options.seed,
            "allow_leaks": list(options.allow_leaks),
            "calendar": options.calendar,
            "base_rate": options.base_rate,
            "own_fields": _own_fields(options.specification),
        },
        "libraries": library_versions(),
        "label": {
            "definition": _definition(options.horizon_days, rate),
            "horizon_days": options.horizon_days,
            "target": TARGET if options.horizon_days is not None else OWN_TARGET,
        },
        "features": {
            "specification_hash": specification.specification_hash,
            "specification": json.loads(specification.specification.to_json()),
            "names": artifact["feature_names"],
            "importance": artifact["feature_importance"],
        },
        "calibration": {
            **({"shift": final.calibrator.shift} if final.calibrator.shift else {}),
            **({} if options.base_rate is None else {"base_rate": options.base_rate}),
            "name": final.calibrator.name,
            "method": calibrators.CALIBRATORS[final.calibrator.name].sentence,
            "interval": calibrators.CALIBRATORS["venn_abers"].sentence,
            "points": final.points,
        },
        "threshold": {"value": final.threshold, "policy": options.policy.sentence},
        "grades": {"cuts": final.grades, "policy": final.grade_policy},
        "metrics": artifact["performance"],
        "metrics_of": METRICS_OF + (OF_THE_SAMPLE if is_sample(options) else ""),
    }


def _own_fields(specification: Specification) -> list[list[Any]]:
    """Return the CRM's own fields that training was given, those that it left out included."""
    return [
        [spec.name, spec.kind, float(spec.low), float(spec.high), spec.imputation]
        for spec in specification.inputs
        if "." in spec.name
    ]


def _definition(horizon_days: float | None, base_rate: float | None) -> str:
    population = "" if base_rate is None else f", where {base_rate:.3g} of all leads convert"
    if horizon_days is None:
        return f"converted, as the source of the table says{population}"
    return (
        f"application submitted within {horizon_days:g} days after the moment of prediction"
        f"{population}"
    )


def golden_inputs(part: TrainingPart, seed: int) -> tuple[list[dict[str, Any]], list[int]]:
    """Return lead states and moments for the golden rows.

    Each field comes from another lead, so no state describes a person.
    """
    rng = np.random.default_rng(seed)
    n = len(part.as_of)
    drawn = {name: rng.integers(n, size=_GOLDEN_ROWS) for name in part.columns}
    states = [
        {name: _json_value(values[int(drawn[name][i])]) for name, values in part.columns.items()}
        for i in range(_GOLDEN_ROWS)
    ]
    newest = int(part.as_of[-1])
    return [*states, {"created_at": newest}], [newest] * (_GOLDEN_ROWS + 1)


def _json_value(value: Any) -> Any:
    """Return a value that JSON holds to the bit; None for a number that is not finite."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, dict):
        return {key: _json_value(own) for key, own in value.items()}
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value if isinstance(value, str | int | float) else None
