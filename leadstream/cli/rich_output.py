"""Consoles of rich whose texts are cleaned, and whose own colors are not."""

import sys
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType, RenderHook, RenderResult
from rich.measure import Measurement
from rich.segment import Segment

from leadstream.terminal import GuardedOutput, clean


class CleanRenderable:
    """A renderable whose texts are cleaned."""

    def __init__(self, inner: RenderableType) -> None:
        self._inner = inner

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the segments, cleaned; those that move the cursor are rich's own."""
        for segment in console.render(self._inner, options):
            yield segment if segment.control else Segment(clean(segment.text), segment.style)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        """Return the width of what is inside."""
        return Measurement.get(console, options, self._inner)


class CleanHook(RenderHook):
    """The step of rich that every printed renderable passes."""

    def process_renderables(self, renderables: Any) -> Any:
        """Return the renderables, each of which cleans its texts."""
        return [CleanRenderable(each) for each in renderables]


def rich_console(*, stderr: bool = False, highlight: bool = False) -> Console:
    """Return a console for standard output, or standard error, that takes texts as they are."""
    stream: Any = sys.stderr if stderr else sys.stdout
    if isinstance(stream, GuardedOutput):
        stream = stream.uncleaned()
    console = Console(file=stream, highlight=highlight, markup=False, emoji=False)
    console.push_render_hook(CleanHook())
    return console
