"""Versions of models: the store, signatures, aliases, the gate, and slots that follow an alias."""
