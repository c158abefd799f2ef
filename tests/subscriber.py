"""A prediction as subscribers get it."""

from typing import Any


def prediction(lead_id: str, **fields: Any) -> dict[str, Any]:
    """A LeadPrediction of this lead with these facts."""
    return {
        "prediction_id": f"p-{lead_id}",
        "lead_id": lead_id,
        "prediction": True,
        "probability": 0.25,
        "probability_low": 0.2,
        "probability_high": 0.3,
        "confidence": 0.8,
        "grade": "B",
        "raw_score": 0.4,
        "threshold": 0.2,
        "reasons": [
            {
                "feature": "lead_score",
                "contribution": 0.1,
                "value": "82",
                "percentile": 0.9,
                "given_rate": None,
            }
        ],
        "base_probability": 0.15,
        "target": "has_application",
        "horizon_days": 60.0,
        "valid_until": 1_750_086_400_000,
        "feature_coverage": 1.0,
        "imputed": [],
        "model_used": "forest",
        "model_version": "1.0.0",
        "model_sha256": "0" * 64,
        "variant": "champion",
        "event_id": f"e-{lead_id}",
        "change_type": "UPDATED",
        "lead_version": 1,
        "coalesced_changes": 0,
        "occurred_at": 1_750_000_000_000,
        "scored_at": 1_750_000_000_100,
        "source_topic": "crm.lead-changes",
        "source_partition": 0,
        "source_offset": 0,
        **fields,
    }
