"""Measures of probabilities on unseen outcomes: ranking, calibration, decisions."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Labels = NDArray[np.bool_]
Metrics = dict[str, float | None]

ECE_BINS = 15
LIFT_SHARE = 0.1
Z_95 = 1.96  # standard errors from the middle to the edge of a 95 % interval
# A wrong probability of exactly 0 or 1 would have an infinite log loss.
EDGE = 1e-6


def legacy_sigmoid(raw: Floats) -> Floats:
    """Return the audited system's formula of raw scores (n,); kept for comparison only.

    clip(1 / (1 + exp(-2 (p - 0.5))), 0.05, 0.95)
    """
    return np.clip(1.0 / (1.0 + np.exp(-2.0 * (raw - 0.5))), 0.05, 0.95)


def metrics(probability: Floats, labels: Labels, threshold: float) -> Metrics:
    """Return all metrics of the manifest for probabilities (n,) and outcomes (n,).

    Both classes must be present. `brier` is in squared and `ece` in plain probability, `log_loss`
    in nats, `lift_at_10_percent` a ratio. A perfect calibration has slope 1 and intercept 0; they
    are None if the classes are separable.
    """
    from sklearn.metrics import (  # noqa: PLC0415  # not needed to serve
        average_precision_score,
        brier_score_loss,
        roc_auc_score,
    )

    decided = probability >= threshold
    hits = int((decided & labels).sum())
    intercept, slope = calibration_line(probability, labels)
    return {
        "roc_auc": float(roc_auc_score(labels, probability)),
        "pr_auc": float(average_precision_score(labels, probability)),
        "log_loss": float(log_losses(probability, labels).mean()),
        "brier": float(brier_score_loss(labels, probability)),
        "ece": expected_calibration_error(probability, labels),
        "calibration_slope": slope,
        "calibration_intercept": intercept,
        "lift_at_10_percent": lift(probability, labels),
        "threshold": threshold,
        "precision": hits / int(decided.sum()) if decided.any() else None,
        "recall": hits / int(labels.sum()),
        "accuracy": float((decided == labels).mean()),
        "base_rate": float(labels.mean()),
    }


def log_losses(probability: Floats, labels: Labels) -> Floats:
    """Return the log loss of each probability (n,), in nats, clipped to EDGE from 0 and 1."""
    stated = np.clip(probability, EDGE, 1 - EDGE)
    losses: Floats = -np.log(np.where(labels, stated, 1 - stated))
    return losses


def expected_calibration_error(probability: Floats, labels: Labels, bins: int = ECE_BINS) -> float:
    """Return the mean distance between stated and realized rate over equal-width bins.

    Bins are weighted by size. Source: M. Pakdaman Naeini, G. Cooper, M. Hauskrecht, "Obtaining well
    calibrated probabilities using Bayesian binning", AAAI 2015.
    """
    inside = np.minimum((probability * bins).astype(np.intp), bins - 1)
    stated = np.bincount(inside, weights=probability, minlength=bins)
    realised = np.bincount(inside, weights=labels, minlength=bins)
    return float(np.abs(stated - realised).sum() / len(labels))


def wilson(converted: float, leads: int, z: float) -> tuple[float, float]:
    """Return the bounds of a rate, each `z` standard errors away; (0, 1) without a lead.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference",
    JASA 22 (1927).
    """
    if not leads:
        return 0.0, 1.0
    rate, share = converted / leads, z * z / leads
    spread = z * np.sqrt(rate * (1 - rate) / leads + share / (4 * leads))
    return float((rate + share / 2 - spread) / (1 + share)), float(
        (rate + share / 2 + spread) / (1 + share)
    )


def lift(probability: Floats, labels: Labels, share: float = LIFT_SHARE) -> float:
    """Return the conversion rate among the top `share` of leads, as a multiple of the base rate.

    Leads that tie at the edge count with the part of them that fits, as if drawn at random.
    """
    size = share * len(labels)
    edge = np.partition(probability, -max(1, int(np.ceil(size))))[-max(1, int(np.ceil(size)))]
    above, tied = probability > edge, probability == edge
    converted = labels[above].sum() + labels[tied].mean() * (size - above.sum())
    return float(converted / size / labels.mean())


def best_f1_threshold(probability: Floats, labels: Labels) -> float:
    """Return the threshold with the largest F1; the highest one if several have it."""
    order = np.argsort(-probability, kind="stable")
    ranked = probability[order]
    hits = np.cumsum(labels[order])
    f1 = 2.0 * hits / (np.arange(1, len(labels) + 1) + labels.sum())
    last_of_tie = np.append(ranked[1:] != ranked[:-1], True)
    return float(ranked[last_of_tie][np.argmax(f1[last_of_tie])])


def auc_loss(before: Floats, after: Floats, labels: Labels) -> tuple[float, float]:
    """Return (ROC-AUC of `before` minus that of `after`, its standard error).

    All arguments are (n,), of the same leads. Source: E. DeLong, D. DeLong, D. Clarke-Pearson,
    "Comparing the areas under two or more correlated receiver operating characteristic curves",
    Biometrics 44 (1988).
    """
    converted, lost = (
        _placements(before, labels, outcome) - _placements(after, labels, outcome)
        for outcome in (True, False)
    )
    error = np.sqrt(converted.var() / len(converted) + lost.var() / len(lost))
    return float(converted.mean()), float(error)


def mean_of_groups(values: Floats, groups: NDArray[np.intp]) -> tuple[float, float]:
    """Return (mean, its standard error) of values (n,) whose groups (n,) are numbered.

    Terms may depend on each other within a group, but not across groups. Source: K.-Y. Liang, S.
    Zeger, "Longitudinal data analysis using generalized linear models", Biometrika 73 (1986).
    """
    mean = float(values.mean())
    sums = np.bincount(groups, weights=values - mean)
    return mean, float(np.sqrt((sums**2).sum())) / len(values)


def roc_auc(scores: Floats, labels: Labels, groups: NDArray[np.intp]) -> tuple[float, float]:
    """Return (ROC-AUC, its standard error) of scores (n,) whose groups (n,) are numbered.

    The error is DeLong's, with the rows of a group taken together; see `mean_of_groups`.
    """
    placed = np.empty(len(scores))
    for outcome in (True, False):
        placed[labels == outcome] = _placements(scores, labels, outcome)
    area = float(placed[labels].mean())
    share = np.where(labels, labels.sum(), (~labels).sum())
    sums = np.bincount(groups, weights=(placed - area) / share)
    return area, float(np.sqrt((sums**2).sum()))


def _placements(scores: Floats, labels: Labels, outcome: bool) -> Floats:
    """Return the share of other leads on the right side of each lead with this outcome.

    Ties count half.
    """
    own, others = scores[labels == outcome], np.sort(scores[labels != outcome])
    ranks = np.searchsorted(others, own, "left") + np.searchsorted(others, own, "right")
    below: Floats = ranks / (2.0 * len(others))
    return below if outcome else 1.0 - below


def calibration_line(probability: Floats, labels: Labels) -> tuple[float | None, float | None]:
    """Return (intercept, slope) of a logistic regression of the outcome on logit(probability).

    Both arguments are (n,). Newton's method. Both results are None if the fit does not converge.
    Source: D. R. Cox, "Two further applications of a model for binary regression", Biometrika 45
    (1958).
    """
    clipped = np.clip(probability, EDGE, 1 - EDGE)
    design = np.stack([np.ones(len(labels)), np.log(clipped / (1 - clipped))], axis=1)
    weights = np.array([0.0, 1.0])
    for _ in range(50):
        fitted = 1.0 / (1.0 + np.exp(-np.clip(design @ weights, -30, 30)))
        curvature = design.T @ (design * (fitted * (1 - fitted))[:, None])
        if np.linalg.cond(curvature) > 1e12:
            return None, None
        step = np.linalg.solve(curvature, design.T @ (labels - fitted))
        # A full step may overshoot; the loss is convex, so a shorter one lowers it.
        while np.abs(step).max() >= 1e-9 and _loss(design @ (weights + step), labels) > _loss(
            design @ weights, labels
        ):
            step = step / 2
        weights = weights + step
        if np.abs(step).max() < 1e-9:
            return float(weights[0]), float(weights[1])
    return None, None


def _loss(score: Floats, labels: Labels) -> float:
    """Return the total log loss of log-odds (n,)."""
    return float(np.logaddexp(0.0, np.where(labels, -score, score)).sum())
