"""The models in service, champion and challenger: looked at between batches, swapped when their aliases move.

A store is asked and a version is checked in a thread beside the batches, by the present model; between two of them only
a reference is exchanged. An alias that moved on in the meantime is followed to where it points in the end.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from leadstream.background import Background, Run, Worker, inline
from leadstream.errors import Transient, UserError
from leadstream.settings import masked_url
from leadstream.variants import CHALLENGER
from models.registry.versions import CHAMPION, Alias, ModelRegistry
from models.serve.scorer import Model

RETRY_SECONDS = 30.0

PATIENCE = 30  # how many times longer a store is left alone that did not answer


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """Where an alias points, with the model of that version or why it is refused, if either was asked for."""

    target: Alias | None
    model: Model | None = None
    refused: str | None = None


def _look(registry: ModelRegistry, alias: str) -> _Found:
    try:
        return _Found(registry.alias(alias))
    except UserError as error:
        return _Found(None, refused=str(error))


def _load(registry: ModelRegistry, alias: str, target: Alias) -> _Found:
    """The model of the version that the alias points to; without it where that has moved on when the model is there."""
    try:
        model = registry.verify(target.version)
    except UserError as error:
        return _Found(target, refused=str(error))
    latest = _look(registry, alias)
    return replace(latest, model=model) if latest.target == target else latest


class ModelSlot:
    """Holds one model for any number of threads. The old one is freed once no batch holds it any more.

    `clock` is a monotonic clock in seconds, `clock_ms` the wall clock in ms UTC. `run` does what no batch waits for, in
    a thread of its own unless told. `refused` says why the version that the alias points to is not the one in service,
    `unanswered` why nobody knows; `loaded_since` is when the one in service was loaded, in ms UTC.
    """

    def __init__(
        self,
        registry: ModelRegistry,
        alias: str = CHAMPION,
        *,
        every: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        run: Run | None = None,
    ) -> None:
        self.refused: str | None = None
        self.unanswered: str | None = None
        self.loaded_since: int | None = None
        self._registry = registry
        self._alias = alias
        self._every = every
        self._clock = clock
        self._clock_ms = clock_ms
        self._run = run or Worker("models")
        self._background = Background[_Found]()
        self._lock = threading.Lock()
        self._model: Model | None = None
        self._judged: Alias | None = None
        self._looked_at = 0.0

    @property
    def loaded(self) -> Model | None:
        """The model in service, if any; never loads one."""
        return self._model

    def get(self) -> Model:
        """The model in service, loaded at the first call; callers that come meanwhile wait for that one load.

        Raises UserError if no version is promoted, Refused if it may not serve, Transient if the store does not answer.
        """
        if (model := self._model) is not None:
            return model
        with self._lock:
            return self._model or self._load()

    def refresh(self) -> bool:
        """Follow the alias, and say whether another model serves now; looks at most once in `every` seconds.

        Neither a look nor a version is waited for: what came of one is taken by a later call. A version that does not
        verify is refused once, and tried again when the alias moves. Where the store does not answer, the present model
        stays, and it is asked again after `PATIENCE` times as long. Call it between batches, from one thread.
        """
        if self._model is None:
            return False
        if self._background.idle and self._clock() - self._looked_at >= self._every:
            self._looked_at = self._clock()
            self._background.start(
                partial(self._newest, self._model.version, self._judged), self._run
            )
        try:
            found = self._background.poll()
        except Transient as trouble:
            self.unanswered = str(trouble)
            self._looked_at = self._clock() + (PATIENCE - 1) * self._every
            return False
        if found is None:
            return False
        self.unanswered = None
        if found.target == self._judged and not found.refused:
            return False
        if found.model is not None and found.target is not None:
            self._serve(found.model, found.target)
            return True
        self._judged, self.refused = found.target, found.refused
        return False

    def _newest(self, serving: str, judged: Alias | None) -> _Found:
        """Where the alias points, with the model where that is another one than is serving and not judged before."""
        found = _look(self._registry, self._alias)
        while not (
            found.model
            or found.refused
            or found.target in (None, judged)
            or found.target.version == serving
        ):
            found = _load(self._registry, self._alias, found.target)
        return found

    def _load(self) -> Model:
        target = self._registry.alias(self._alias)
        if target is None:
            raise UserError(
                f"no model is promoted to {self._alias} in {masked_url(self._registry.url)}: "
                "run `leadstream train`, then `leadstream models promote VERSION`"
            )
        self._looked_at = self._clock()
        return self._serve(self._registry.verify(target.version), target)

    def _serve(self, model: Model, target: Alias) -> Model:
        self._model, self._judged, self.refused, self.loaded_since = (
            model,
            target,
            None,
            self._clock_ms(),
        )
        return model


class ChallengerSlot:
    """Holds the model that challenges the champion, or none; one thread follows, any number may look.

    Nothing that is wrong with a challenger is raised. `refused` says why the version that the alias points to is not in
    service, `unanswered` why nobody knows or can have it; either may be None, and a challenger that serves goes on.
    """

    def __init__(
        self,
        registry: ModelRegistry,
        *,
        every: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        run: Run | None = None,
    ) -> None:
        self.loaded: Model | None = None
        self.loaded_since: int | None = None
        self.refused: str | None = None
        self.unanswered: str | None = None
        self._registry = registry
        self._every = every
        self._clock = clock
        self._clock_ms = clock_ms
        self._run: Run = inline  # nothing flows yet at the first call
        self._later = run or Worker("models")
        self._background = Background[_Found]()
        self._judged: Alias | None = None
        self._look_at = clock()

    def follow(
        self, champion: str, obstacle: Callable[[], str | None] = lambda: None
    ) -> Model | None:
        """Follow the alias, and return the challenger for the next batch; looks at most once in `every` seconds.

        There is none while the alias is not set or points to the version of the champion. `obstacle` is asked before a
        version is loaded, and may say why none can serve. That and a store that does not answer are tried again after
        RETRY_SECONDS; a version that does not verify is refused once, and tried again when the alias moves. Only the
        first call waits for what it finds.
        """
        if self.loaded is not None and self.loaded.version == champion:
            self.loaded = None
        if self._background.idle and self._clock() >= self._look_at:
            self._look_at = self._clock() + self._every
            self._background.start(partial(_look, self._registry, CHALLENGER), self._run)
        try:
            while (found := self._background.poll()) is not None:
                self._judge(found, champion, obstacle)
        except Transient as trouble:
            self._wait(str(trouble))
        self._run = self._later
        return self.loaded

    def withdraw(self, why: str) -> None:
        """Take the challenger out of service until its alias moves."""
        self.loaded, self.refused = None, why

    def suspend(self, why: str) -> None:
        """Take the challenger out of service for RETRY_SECONDS."""
        self.loaded = None
        self._wait(why)

    def _judge(self, found: _Found, champion: str, obstacle: Callable[[], str | None]) -> None:
        target = found.target
        if found.refused:
            self._judged, self.refused, self.unanswered = target, found.refused, None
        elif target is None or target.version == champion:
            self.loaded = self._judged = self.refused = self.unanswered = None
        elif target == self._judged and (self.loaded or self.refused):
            self.unanswered = None
        elif self.loaded is not None and self.loaded.version == target.version:
            self._judged, self.refused, self.unanswered = target, None, None
        elif found.model is not None:
            self.loaded, self.loaded_since = found.model, self._clock_ms()
            self._judged, self.refused, self.unanswered = target, None, None
        elif why := obstacle():
            self._wait(why)
        else:
            self._background.start(partial(_load, self._registry, CHALLENGER, target), self._run)

    def _wait(self, why: str) -> None:
        self.unanswered, self._look_at = why, self._clock() + RETRY_SECONDS
