"""Checks that every verb of the history begins with: its folder, and the extra `history`."""

import os

from leadstream.errors import SettingsError

PURPOSE = "name the folder or URL that is to hold the history, for example /srv/history"


def need_extra() -> None:
    """Raise SettingsError if the extra `history` is not installed."""
    # What the store's clients would print, the loop reports in its own words.
    os.environ.setdefault("RUST_LOG", "off")
    try:
        import deltalake  # noqa: F401
        import pyarrow  # noqa: F401
    except ImportError:
        raise SettingsError(
            "`leadstream history` needs the extra history: `pip install 'leadstream[history]'`"
        ) from None
