"""The models in service, champion and challenger: checked between batches, swapped by alias.

A background thread asks the store and verifies a version while the present model serves. Between
two batches only a reference changes. If the alias moves during the check, the slot follows it to
its last target.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from leadstream.addresses import masked_url
from leadstream.background import Background, Run, Worker, inline
from leadstream.errors import Transient, UserError
from leadstream.variants import CHALLENGER
from models.registry.versions import CHAMPION, Alias, ModelRegistry
from models.serve.scorer import Model

RETRY_SECONDS = 30.0

PATIENCE = 30  # a store that did not answer is asked again after so many intervals


@dataclass(frozen=True, slots=True, eq=False)
class _AliasLookup:
    """Where an alias points, with the model of that version or the reason for its refusal."""

    target: Alias | None
    model: Model | None = None
    refused: str | None = None


def _look(registry: ModelRegistry, alias: str) -> _AliasLookup:
    try:
        return _AliasLookup(registry.alias(alias))
    except UserError as error:
        return _AliasLookup(None, refused=str(error))


def _load(registry: ModelRegistry, alias: str, target: Alias) -> _AliasLookup:
    """Return the model that the alias points to; without it if the alias has moved on."""
    try:
        model = registry.verify(target.version)
    except UserError as error:
        return _AliasLookup(target, refused=str(error))
    latest = _look(registry, alias)
    return replace(latest, model=model) if latest.target == target else latest


class ModelSlot:
    """One model for any number of threads; the old one is freed after its last batch.

    - `clock`: a monotonic clock in seconds. `clock_ms`: the wall clock in ms UTC.
    - `run`: runs background work; a thread of its own by default.
    - `refused`: why the version that the alias points to is not in service.
    - `unanswered`: why the target of the alias is unknown.
    - `loaded_since`: when the model in service was loaded, in ms UTC.
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
        self._background = Background[_AliasLookup]()
        self._lock = threading.Lock()
        self._model: Model | None = None
        self._handled: Alias | None = None
        self._looked_at = 0.0

    @property
    def loaded(self) -> Model | None:
        """Return the model in service, if any; never load one."""
        return self._model

    def get(self) -> Model:
        """Return the model in service, loaded at the first call.

        Concurrent callers wait for that one load. Raises UserError if no version is promoted,
        Refused if it may not serve, Transient if the store does not answer.
        """
        if (model := self._model) is not None:
            return model
        with self._lock:
            return self._model or self._load()

    def refresh(self) -> bool:
        """Follow the alias and return whether another model serves now.

        Call it between batches, from one thread. It asks at most once in `every` seconds and never
        waits: a later call takes the result. A version that does not verify is refused once, and
        tried again when the alias moves. If the store does not answer, the present model stays, and
        the next attempt comes after `PATIENCE` times as long.
        """
        if self._model is None:
            return False
        if self._background.idle and self._clock() - self._looked_at >= self._every:
            self._looked_at = self._clock()
            self._background.start(
                partial(self._newest, self._model.version, self._handled), self._run
            )
        try:
            found = self._background.poll()
        except Transient as trouble:
            self.unanswered = str(trouble)
            self._looked_at = self._clock() + (PATIENCE - 1) * self._every
            return False
        if found is None:
            return False
        gone = found.target is None and not found.refused
        self.unanswered = self._gone() if gone else None
        if found.target == self._handled and not found.refused:
            return False
        if found.model is not None and found.target is not None:
            self._serve(found.model, found.target)
            return True
        self._handled, self.refused = found.target, found.refused
        return False

    def _gone(self) -> str:
        return (
            f"the alias {self._alias} is gone from {masked_url(self._registry.url)}: is the store "
            "still there? The present model stays in service"
        )

    def _newest(self, serving: str, handled: Alias | None) -> _AliasLookup:
        """Return where the alias points, with the model if its target is new."""
        found = _look(self._registry, self._alias)
        while not (
            found.model
            or found.refused
            or found.target in (None, handled)
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
        self._model, self._handled, self.refused, self.loaded_since = (
            model,
            target,
            None,
            self._clock_ms(),
        )
        return model


class ChallengerSlot:
    """The model that challenges the champion, or none; one thread follows the alias, any may read.

    Problems of a challenger are never raised. `refused` says why the version that the alias points
    to is not in service. `unanswered` says why its target is unknown or cannot load. A challenger
    that serves goes on in both cases.
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
        self._run: Run = inline  # no batch waits at the first call
        self._in_background = run or Worker("models")
        self._background = Background[_AliasLookup]()
        self._handled: Alias | None = None
        self._look_at = clock()

    def follow(
        self, champion: str, obstacle: Callable[[], str | None] = lambda: None
    ) -> Model | None:
        """Follow the alias and return the challenger for the next batch.

        The result is None if the alias is not set or points to the version of the champion. The
        alias is read at most once in `every` seconds. `obstacle` is called before a version is
        loaded and may return why none can serve. After an obstacle, or if the store does not
        answer, the next attempt comes after RETRY_SECONDS. A version that does not verify is
        refused once, and tried again when the alias moves. Only the first call waits for its
        result.
        """
        if self.loaded is not None and self.loaded.version == champion:
            self.loaded = None
        if self._background.idle and self._clock() >= self._look_at:
            self._look_at = self._clock() + self._every
            self._background.start(partial(_look, self._registry, CHALLENGER), self._run)
        try:
            while (found := self._background.poll()) is not None:
                self._apply(found, champion, obstacle)
        except Transient as trouble:
            self._wait(str(trouble))
        self._run = self._in_background
        return self.loaded

    def withdraw(self, why: str) -> None:
        """Take the challenger out of service until its alias moves."""
        self.loaded, self.refused = None, why

    def suspend(self, why: str) -> None:
        """Take the challenger out of service for RETRY_SECONDS."""
        self.loaded = None
        self._wait(why)

    def _apply(
        self, found: _AliasLookup, champion: str, obstacle: Callable[[], str | None]
    ) -> None:
        target = found.target
        if found.refused:
            self._handled, self.refused, self.unanswered = target, found.refused, None
        elif target is None or target.version == champion:
            self.loaded = self._handled = self.refused = self.unanswered = None
        elif target == self._handled and (self.loaded or self.refused):
            self.unanswered = None
        elif self.loaded is not None and self.loaded.version == target.version:
            self._handled, self.refused, self.unanswered = target, None, None
        elif found.model is not None:
            self.loaded, self.loaded_since = found.model, self._clock_ms()
            self._handled, self.refused, self.unanswered = target, None, None
        elif why := obstacle():
            self._wait(why)
        else:
            self._background.start(partial(_load, self._registry, CHALLENGER, target), self._run)

    def _wait(self, why: str) -> None:
        self.unanswered, self._look_at = why, self._clock() + RETRY_SECONDS
