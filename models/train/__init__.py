"""Making of models: training, leak tests, recalibration, import of artifacts, the report."""
