"""Models in service: drift, outcomes, comparison of versions and retraining triggers."""
