"""Leadstream: calibrated lead scores that follow every change of a lead."""

__version__ = "0.2.0"
