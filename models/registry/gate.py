"""The gate: the objections to a version that would replace the present champion.

A version, the first one included, must know more than the best constant rate (`evidence` in the
manifest). Next to a champion, the gate compares log loss and ROC-AUC on leads that both models can
score and neither has learned from. Training makes both comparisons, on the last periods of the
candidate, so the gate needs no leads. An objection is a sentence for a person, who may force the
promotion. The log of the alias keeps the objections.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from features import columns_of
from leadstream.errors import UserError
from models.evaluate import auc_loss, log_losses, mean_of_groups

if TYPE_CHECKING:
    from models.serve.scorer import Model

Floats = NDArray[np.float64]
Labels = NDArray[np.bool_]

MIN_LEADS, MIN_OUTCOMES = 200, 20
ERRORS = 2.0  # a candidate must be worse by so many standard errors
# A model must gain on the best constant by so many standard errors, and ROC-AUC must exceed .5 by
# so many. Ranking is the sharper test: of 4,000 leads at ROC-AUC .60, a gain of two errors would
# refuse every seventh weak signal (docs/decisions/0018-promote-by-ranking-first.md).
GAIN_ERRORS, AUC_ERRORS = 1.0, 3.0
MAX_AUC_LOSS = 0.01
# Two manifests on the same n rows have no standard error. CHANCE / sqrt(n) is the distance of two
# seeds of one forest.
CHANCE = 0.3
MAX_GOLDEN_SHIFT = 0.25  # mean distance of two models' probabilities on the champion's golden rows


class GateRefused(UserError):
    """The version was not promoted; `objections` has a sentence for each reason."""

    def __init__(self, version: str, objections: list[str]) -> None:
        super().__init__(
            f"version {version} was not promoted: {'; '.join(objections)} (--force promotes it "
            "anyway)"
        )
        self.objections = objections


def compare(
    champion: "Model",
    present: Floats,
    candidate: Floats,
    labels: Labels,
    leads: NDArray[np.intp],
    *,
    base_rate: float | None = None,
) -> dict[str, Any]:
    """Return the comparison of two models' probabilities on the same outcomes, for the manifest.

    `present`, `candidate`, `labels` and `leads` are (n,); `leads` numbers the leads. With fewer
    than MIN_LEADS rows, or MIN_OUTCOMES of either outcome, it holds only the counts. The standard
    error of the mean difference treats the rows of a lead as one group, because they are not
    independent. Rows weigh as in a population with this `base_rate`, if it is known.
    """
    won = int(labels.sum())
    comparison: dict[str, Any] = {
        "version": champion.version,
        "sha256": champion.sha256,
        "rows": len(labels),
        "conversions": won,
    }
    if len(labels) < MIN_LEADS or min(won, len(labels) - won) < MIN_OUTCOMES:
        return comparison
    weights = np.ones(len(labels))
    if base_rate is not None:
        rate = won / len(labels)
        weights = np.where(labels, base_rate / rate, (1 - base_rate) / (1 - rate))
    losses = weights * log_losses(present, labels), weights * log_losses(candidate, labels)
    difference, error = mean_of_groups(losses[1] - losses[0], leads)
    lost, auc_error = auc_loss(present, candidate, labels)
    return comparison | {
        "log_loss": {
            "champion": float(losses[0].mean()),
            "candidate": float(losses[1].mean()),
            "difference": difference,
            "standard_error": error,
        },
        "roc_auc_lost": {"value": lost, "standard_error": auc_error},
    }


def objections(candidate: "Model", champion: "Model | None") -> list[str]:
    """Return the objections to the candidate, a sentence each; an empty list lets it serve."""
    found = list(_alone(candidate.manifest))
    if champion is not None and champion.sha256 != candidate.sha256:
        found += _label(candidate.manifest, champion.manifest)
        found += _leaks(candidate.manifest, champion.manifest)
        found += _later_leads(candidate.manifest, champion)
        found += _golden(candidate, champion)
    return found


def _alone(manifest: Mapping[str, Any]) -> list[str]:
    """A model must know more than a base rate, beyond chance."""
    if "legacy" in manifest:
        return ["its quality is unknown: it was imported, and no lead has tested it"]
    evidence = manifest.get("evidence")
    if evidence is None:  # versions of 0.2 and before have none
        return _no_better(manifest)
    found = _no_better(manifest) if "recalibrated" in manifest else []
    loss, auc, newest = (evidence[part] for part in ("log_loss", "roc_auc", "newest_period"))
    which = f"{evidence['rows']:,} later rows of {evidence['leads']:,} leads"
    if loss["gain"] <= GAIN_ERRORS * loss["standard_error"]:
        found.append(
            f"it does not know more than a constant, beyond chance: log loss {loss['model']:.4f} "
            f"on {which}, against {loss['constant']:.4f} of always stating the rate of "
            f"{loss['rate_of']} (the gain must exceed its standard error, "
            f"{loss['standard_error']:.4f})"
        )
    elif newest["gain"] < -ERRORS * newest["standard_error"]:
        found.append(
            "on the newest period alone it loses more than always stating the rate of "
            f"{loss['rate_of']}: log loss is higher by {-newest['gain']:.4f}"
        )
    bound = auc["value"] - AUC_ERRORS * auc["standard_error"]
    if bound <= 0.5:
        found.append(
            f"its ranking may be chance: ROC-AUC {auc['value']:.3f} on {which}, "
            f"and at least {bound:.3f} is sure (more than .5 is needed)"
        )
    return found


def _no_better(manifest: Mapping[str, Any]) -> list[str]:
    """Compare the metrics of a manifest with the base rate of the leads before."""
    periods = manifest["data"]["judged"]
    known, rate = periods["train"]["base_rate"], periods["test"]["base_rate"]
    constant = -rate * np.log(known) - (1 - rate) * np.log(1 - known)
    loss = manifest["metrics"]["calibrated"]["log_loss"]
    if loss < constant:
        return []
    return [
        f"its log loss of {loss:.4f} on later leads is no better than that of always saying "
        f"{known:.3f}"
    ]


def _label(manifest: Mapping[str, Any], champion: Mapping[str, Any]) -> list[str]:
    mine, its = manifest["label"]["definition"], champion["label"]["definition"]
    if "legacy" in champion or mine == its:
        return []
    return [f"its probability means something else ({mine}) than the champion's ({its})"]


def _leaks(manifest: Mapping[str, Any], champion: Mapping[str, Any]) -> list[str]:
    # Permissions last, although the tests may find nothing in the champion's leads.
    permitted = {
        *champion.get("leaks", {}).get("allowed", []),
        *champion.get("options", {}).get("allow_leaks", []),
    }
    allowed = set(manifest.get("leaks", {}).get("allowed", [])) - permitted
    return (
        [f"it was trained although the outcome seems to leak into {', '.join(sorted(allowed))}"]
        if allowed
        else []
    )


def _later_leads(manifest: Mapping[str, Any], champion: "Model") -> list[str]:
    comparison = manifest.get("against")
    if comparison and comparison["sha256"] == champion.sha256 and "log_loss" in comparison:
        return _worse(comparison)
    period = _last_period(manifest)
    if period is not None and period == _last_period(champion.manifest):
        return _worse_by_manifest(manifest, champion.manifest)
    if comparison and comparison["sha256"] == champion.sha256:
        return [
            f"only {comparison['rows']:,} rows with their outcome, {comparison['conversions']:,} "
            "of them converted, "
            f"are newer than what the champion {champion.version} learned from: too few to compare "
            "the two "
            f"({MIN_LEADS} are needed, and {MIN_OUTCOMES} of each outcome)"
        ]
    return [
        f"it was not compared with the present champion {champion.version}: train again while that "
        "one is champion"
    ]


def _worse(comparison: Mapping[str, Any]) -> list[str]:
    loss, lost = comparison["log_loss"], comparison["roc_auc_lost"]
    found = []
    if loss["difference"] > ERRORS * loss["standard_error"]:
        found.append(
            f"it loses more than the champion on {comparison['rows']:,} later leads: log loss "
            f"{loss['candidate']:.4f} "
            f"against {loss['champion']:.4f}"
        )
    if lost["value"] - ERRORS * lost["standard_error"] > MAX_AUC_LOSS:
        found.append(f"it ranks worse than the champion: ROC-AUC is lower by {lost['value']:.3f}")
    return found


def _worse_by_manifest(manifest: Mapping[str, Any], champion: Mapping[str, Any]) -> list[str]:
    """Compare two manifests whose metrics are of the same period."""
    mine, its = manifest["metrics"]["calibrated"], champion["metrics"]["calibrated"]
    chance = CHANCE / float(np.sqrt(_last_period(manifest)["rows"]))
    found = []
    if mine["log_loss"] - its["log_loss"] > chance:
        found.append(
            f"it loses more than the champion on the same leads: log loss {mine['log_loss']:.4f} "
            "against "
            f"{its['log_loss']:.4f}"
        )
    if its["roc_auc"] - mine["roc_auc"] > max(chance, MAX_AUC_LOSS):
        found.append(
            f"it ranks worse than the champion on the same leads: {mine['roc_auc']:.3f}, "
            f"{its['roc_auc']:.3f}"
        )
    return found


def _golden(candidate: "Model", champion: "Model") -> list[str]:
    golden = champion.manifest["golden"]
    as_of = np.array([row["as_of"] for row in golden], dtype=np.int64)
    scores = candidate.score(columns_of([row["state"] for row in golden]), as_of)
    if scores.failed:
        first = next(iter(scores.failed.values()))
        return [
            f"it cannot score {len(scores.failed)} of the champion's {len(golden)} golden rows "
            f"({first.detail})"
        ]
    moved = float(
        np.abs(scores.probability - np.array([row["probability"] for row in golden])).mean()
    )
    if moved <= MAX_GOLDEN_SHIFT:
        return []
    return [
        f"its probabilities on the champion's golden rows are {moved:.2f} away from the champion's "
        "on average"
    ]


def _last_period(manifest: Mapping[str, Any]) -> Any:
    return manifest.get("data", {}).get("judged", {}).get("test")
