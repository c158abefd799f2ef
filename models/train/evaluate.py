"""How good probabilities are, on labels that they have not seen: ranking, calibration, and decisions at a threshold."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Labels = NDArray[np.bool_]
Metrics = dict[str, float | None]

ECE_BINS = 15
LIFT_SHARE = 0.1
Z_95 = 1.96  # standard errors from the middle to the edge of a 95 % interval
# A probability of exactly 0 or 1 that turns out wrong would cost infinitely much.
EDGE = 1e-6


def legacy_sigmoid(raw: Floats) -> Floats:
    """The audited system's formula, clip(1 / (1 + exp(-2 (p - 0.5))), 0.05, 0.95): kept for comparison only."""
    return np.clip(1.0 / (1.0 + np.exp(-2.0 * (raw - 0.5))), 0.05, 0.95)


def metrics(probability: Floats, labels: Labels, threshold: float) -> Metrics:
    """All numbers of the manifest for probabilities (n,) and outcomes (n,), both classes present.

    `brier` and `ece` are in squared and plain probability, `log_loss` in nats, `lift_at_10_percent` a ratio. A perfect
    calibration has slope 1 and intercept 0; they are None where the classes are separable.
    """
    # A service states probabilities and judges none: it does without scikit-learn.
    from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score  # noqa: PLC0415

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
    """What each of n probabilities loses by its outcome, in nats, cut at EDGE from 0 and 1: (n,)."""
    stated = np.clip(probability, EDGE, 1 - EDGE)
    losses: Floats = -np.log(np.where(labels, stated, 1 - stated))
    return losses


def expected_calibration_error(probability: Floats, labels: Labels, bins: int = ECE_BINS) -> float:
    """Mean distance between stated and realised rate over equal-width bins, weighted by their size.

    Source: M. Pakdaman Naeini, G. Cooper, M. Hauskrecht, "Obtaining well calibrated probabilities using Bayesian
    binning", AAAI 2015.
    """
    inside = np.minimum((probability * bins).astype(np.intp), bins - 1)
    stated = np.bincount(inside, weights=probability, minlength=bins)
    realised = np.bincount(inside, weights=labels, minlength=bins)
    return float(np.abs(stated - realised).sum() / len(labels))


def wilson(converted: float, leads: int, z: float) -> tuple[float, float]:
    """Bounds of a rate, each `z` standard errors away; (0, 1) without a lead.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
    """
    if not leads:
        return 0.0, 1.0
    rate, share = converted / leads, z * z / leads
    spread = z * np.sqrt(rate * (1 - rate) / leads + share / (4 * leads))
    return float((rate + share / 2 - spread) / (1 + share)), float(
        (rate + share / 2 + spread) / (1 + share)
    )


def lift(probability: Floats, labels: Labels, share: float = LIFT_SHARE) -> float:
    """How many times the base rate converts among the top `share` of leads.

    Leads that tie at the edge count with the part of them that fits, as if drawn at random.
    """
    size = share * len(labels)
    edge = np.partition(probability, -max(1, int(np.ceil(size))))[-max(1, int(np.ceil(size)))]
    above, tied = probability > edge, probability == edge
    converted = labels[above].sum() + labels[tied].mean() * (size - above.sum())
    return float(converted / size / labels.mean())


def best_f1_threshold(probability: Floats, labels: Labels) -> float:
    """The probability from which on saying "converts" gives the largest F1; the highest such, if several do."""
    order = np.argsort(-probability, kind="stable")
    ranked = probability[order]
    hits = np.cumsum(labels[order])
    f1 = 2.0 * hits / (np.arange(1, len(labels) + 1) + labels.sum())
    last_of_tie = np.append(ranked[1:] != ranked[:-1], True)
    return float(ranked[last_of_tie][np.argmax(f1[last_of_tie])])


def auc_loss(before: Floats, after: Floats, labels: Labels) -> tuple[float, float]:
    """(ROC-AUC of `before` minus that of `after`, its standard error), both scores (n,) of the same leads.

    Source: E. DeLong, D. DeLong, D. Clarke-Pearson, "Comparing the areas under two or more correlated receiver
    operating characteristic curves", Biometrics 44 (1988).
    """
    converted, lost = (
        _placements(before, labels, of) - _placements(after, labels, of) for of in (True, False)
    )
    error = np.sqrt(converted.var() / len(converted) + lost.var() / len(lost))
    return float(converted.mean()), float(error)


def _placements(scores: Floats, labels: Labels, of: bool) -> Floats:
    """For each lead with outcome `of` the share of the others that it is on the right side of; ties count half."""
    own, others = scores[labels == of], np.sort(scores[labels != of])
    ranks = np.searchsorted(others, own, "left") + np.searchsorted(others, own, "right")
    below: Floats = ranks / (2.0 * len(others))
    return below if of else 1.0 - below


def calibration_line(probability: Floats, labels: Labels) -> tuple[float | None, float | None]:
    """(intercept, slope) of a logistic regression of the outcome on logit(probability), by Newton's method.

    Source: D. R. Cox, "Two further applications of a model for binary regression", Biometrika 45 (1958). Both are None
    where the fit does not converge.
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
        # A full step may overshoot from far away; the loss is convex, so a shorter one lowers it.
        while np.abs(step).max() >= 1e-9 and _loss(design @ (weights + step), labels) > _loss(
            design @ weights, labels
        ):
            step = step / 2
        weights = weights + step
        if np.abs(step).max() < 1e-9:
            return float(weights[0]), float(weights[1])
    return None, None


def _loss(score: Floats, labels: Labels) -> float:
    """Log loss, in all, of log-odds (n,)."""
    return float(np.logaddexp(0.0, np.where(labels, -score, score)).sum())
