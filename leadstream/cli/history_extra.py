"""Checks that every verb of the history begins with: its folder, and the extra `history`."""

import os
from importlib import import_module

from leadstream.errors import SettingsError

PURPOSE = "name the folder or URL that is to hold the history, for example /srv/history"


def need_extra(*modules: str) -> None:
    """Raise SettingsError if the extra `history`, with these modules, is not installed."""
    # What the store's clients would print, the loop reports in its own words.
    os.environ.setdefault("RUST_LOG", "off")
    try:
        for module in ("deltalake", "pyarrow", *modules):
            import_module(module)
    except ImportError:
        raise SettingsError(
            "the history needs the extra history: `pip install 'leadstream[history]'`"
        ) from None
