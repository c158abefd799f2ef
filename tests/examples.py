"""How many examples a property test draws: all, or 15 % in the quick profile."""

from hypothesis import settings

QUICK = "quick"
settings.register_profile(QUICK, max_examples=15, deadline=None)


def examples(count: int) -> int:
    """Return the number of examples for a test that draws `count` in the default profile.

    `--hypothesis-profile quick` (`make unit`, `make test`) draws 15 % of them.
    `make test-long` and plain `pytest` draw all.
    """
    return max(4, count * settings().max_examples // 100)
