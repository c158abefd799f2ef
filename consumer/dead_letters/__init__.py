"""Triage of dead letters: read, group, inspect and export them, and decide on each one once."""
