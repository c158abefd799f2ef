"""The gate: what speaks against letting a version serve in the place of the present champion.

Compared is by log loss and ROC-AUC on leads that both models answer for and neither has learnt from: training scores
the champion on the candidate's last period and writes the comparison into the manifest (`against`), so that the gate
needs no lead. What it finds are sentences for a person, who may force the promotion; the log of the alias keeps them.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features import columns_of
from leadstream.errors import UserError
from models.serve.scorer import Model
from models.train.evaluate import auc_loss, log_losses
from models.train.table import Part, moment_of

Floats = NDArray[np.float64]
Labels = NDArray[np.bool_]

LEAST_LEADS, LEAST_OUTCOMES = 200, 20
ERRORS = 2.0  # standard errors by which a candidate must be worse before that counts
MOST_AUC_LOST = 0.01
# Of two manifests on the same n rows no standard error is known: so far, over sqrt(n), two seeds of one forest differ.
CHANCE = 0.3
MOST_GOLDEN_SHIFT = 0.25  # mean distance of two models' probabilities on the champion's golden rows


class GateRefused(UserError):
    """The version was not promoted; `objections` has a sentence for each reason."""

    def __init__(self, version: str, objections: list[str]) -> None:
        super().__init__(
            f"version {version} was not promoted: {'; '.join(objections)} (--force promotes it anyway)"
        )
        self.objections = objections


def against(
    champion: Model, part: Part, rows: NDArray[np.intp], candidate: Floats
) -> dict[str, Any]:
    """How a champion does on the `rows` (m,) of a part beside the candidate's probabilities (m,), for the manifest.

    Rows that the champion may have learnt from, or cannot score, are left out.
    """
    scores = champion.score(part.columns, part.as_of)
    fresh = part.as_of[rows] > _learnt_until(champion.manifest)
    fresh &= ~np.isin(rows, list(scores.failed))
    return compared(
        champion,
        scores.probability[rows][fresh],
        candidate[fresh],
        part.labels[rows][fresh],
        part.leads[rows][fresh],
    )


def compared(
    champion: Model, present: Floats, candidate: Floats, labels: Labels, leads: NDArray[np.intp]
) -> dict[str, Any]:
    """The comparison of two models' probabilities (n,) on the same outcomes (n,) of the leads numbered in `leads` (n,).

    Without LEAST_LEADS rows, and LEAST_OUTCOMES of either outcome, only the counts are in it. The standard error of the
    mean difference takes the rows of a lead together, for they are not independent.
    """
    won = int(labels.sum())
    facts: dict[str, Any] = {
        "version": champion.version,
        "sha256": champion.sha256,
        "rows": len(labels),
        "conversions": won,
    }
    if len(labels) < LEAST_LEADS or min(won, len(labels) - won) < LEAST_OUTCOMES:
        return facts
    losses = log_losses(present, labels), log_losses(candidate, labels)
    difference, error = mean_of_groups(losses[1] - losses[0], leads)
    lost, auc_error = auc_loss(present, candidate, labels)
    return facts | {
        "log_loss": {
            "champion": float(losses[0].mean()),
            "candidate": float(losses[1].mean()),
            "difference": difference,
            "standard_error": error,
        },
        "roc_auc_lost": {"value": lost, "standard_error": auc_error},
    }


def mean_of_groups(values: Floats, groups: NDArray[np.intp]) -> tuple[float, float]:
    """(mean, its standard error) of values (n,) that belong together by group (n,).

    Source: K.-Y. Liang, S. Zeger, "Longitudinal data analysis using generalized linear models", Biometrika 73 (1986):
    the variance of a mean whose terms may depend on each other within a group, but not across groups.
    """
    mean = float(values.mean())
    sums = np.bincount(groups, weights=values - mean)
    return mean, float(np.sqrt((sums**2).sum())) / len(values)


def objections(candidate: Model, champion: Model | None) -> list[str]:
    """What speaks against the candidate, a sentence each; none means that it may serve."""
    found = list(_alone(candidate.manifest))
    if champion is not None and champion.sha256 != candidate.sha256:
        found += _label(candidate.manifest, champion.manifest)
        found += _leaks(candidate.manifest, champion.manifest)
        found += _later_leads(candidate.manifest, champion)
        found += _golden(candidate, champion)
    return found


def _alone(manifest: Mapping[str, Any]) -> list[str]:
    """A model must tell more than the base rate does."""
    if "legacy" in manifest:
        return ["nobody knows how well it does: it was imported, and not judged on any lead"]
    judged = manifest["data"]["judged"]
    known, rate = judged["train"]["base_rate"], judged["test"]["base_rate"]
    constant = -rate * np.log(known) - (1 - rate) * np.log(1 - known)
    loss = manifest["metrics"]["calibrated"]["log_loss"]
    if loss < constant:
        return []
    return [
        f"its log loss of {loss:.4f} on later leads is no better than that of always saying {known:.3f}"
    ]


def _label(manifest: Mapping[str, Any], champion: Mapping[str, Any]) -> list[str]:
    mine, its = manifest["label"]["definition"], champion["label"]["definition"]
    if "legacy" in champion or mine == its:
        return []
    return [f"its probability means something else ({mine}) than the champion's ({its})"]


def _leaks(manifest: Mapping[str, Any], champion: Mapping[str, Any]) -> list[str]:
    allowed = set(manifest.get("leaks", {}).get("allowed", [])) - set(
        champion.get("leaks", {}).get("allowed", [])
    )
    return (
        [f"it was trained although the outcome seems to leak into {', '.join(sorted(allowed))}"]
        if allowed
        else []
    )


def _later_leads(manifest: Mapping[str, Any], champion: Model) -> list[str]:
    comparison = manifest.get("against")
    if comparison and comparison["sha256"] == champion.sha256 and "log_loss" in comparison:
        return _worse(comparison)
    period = _last_period(manifest)
    if period is not None and period == _last_period(champion.manifest):
        return _worse_by_manifest(manifest, champion.manifest)
    if comparison and comparison["sha256"] == champion.sha256:
        return [
            f"only {comparison['rows']:,} rows with their outcome, {comparison['conversions']:,} of them converted, "
            f"are newer than what the champion {champion.version} learnt from: too few to compare the two "
            f"({LEAST_LEADS} are needed, and {LEAST_OUTCOMES} of each outcome)"
        ]
    return [
        f"it was not compared with the present champion {champion.version}: train again while that one is champion"
    ]


def _worse(comparison: Mapping[str, Any]) -> list[str]:
    loss, lost = comparison["log_loss"], comparison["roc_auc_lost"]
    found = []
    if loss["difference"] > ERRORS * loss["standard_error"]:
        found.append(
            f"it loses more than the champion on {comparison['rows']:,} later leads: log loss {loss['candidate']:.4f} "
            f"against {loss['champion']:.4f}"
        )
    if lost["value"] - ERRORS * lost["standard_error"] > MOST_AUC_LOST:
        found.append(f"it ranks worse than the champion: ROC-AUC is lower by {lost['value']:.3f}")
    return found


def _worse_by_manifest(manifest: Mapping[str, Any], champion: Mapping[str, Any]) -> list[str]:
    """Both were judged on the same period: what was written down then is compared."""
    mine, its = manifest["metrics"]["calibrated"], champion["metrics"]["calibrated"]
    chance = CHANCE / float(np.sqrt(_last_period(manifest)["rows"]))
    found = []
    if mine["log_loss"] - its["log_loss"] > chance:
        found.append(
            f"it loses more than the champion on the same leads: log loss {mine['log_loss']:.4f} against "
            f"{its['log_loss']:.4f}"
        )
    if its["roc_auc"] - mine["roc_auc"] > max(chance, MOST_AUC_LOST):
        found.append(
            f"it ranks worse than the champion on the same leads: {mine['roc_auc']:.3f}, {its['roc_auc']:.3f}"
        )
    return found


def _golden(candidate: Model, champion: Model) -> list[str]:
    golden = champion.manifest["golden"]
    as_of = np.array([row["as_of"] for row in golden], dtype=np.int64)
    scores = candidate.score(columns_of([row["state"] for row in golden]), as_of)
    if scores.failed:
        first = next(iter(scores.failed.values()))
        return [
            f"it cannot score {len(scores.failed)} of the champion's {len(golden)} golden rows ({first.detail})"
        ]
    moved = float(
        np.abs(scores.probability - np.array([row["probability"] for row in golden])).mean()
    )
    if moved <= MOST_GOLDEN_SHIFT:
        return []
    return [
        f"its probabilities on the champion's golden rows are {moved:.2f} away from the champion's on average"
    ]


def _last_period(manifest: Mapping[str, Any]) -> Any:
    return manifest.get("data", {}).get("judged", {}).get("test")


def _learnt_until(manifest: Mapping[str, Any]) -> int:
    used = manifest.get("data", {}).get("used")
    return moment_of(used["train"]["to"]) if used else -1
