"""Scoring in the consumer: artifacts read as data, the scorer, the trees and the calibrators."""
