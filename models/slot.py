"""The models in service, champion and challenger: looked at between batches, swapped when their aliases move."""

import threading
import time
from collections.abc import Callable

from leadstream.errors import Transient, UserError
from models.registry import CHAMPION, Alias, ModelRegistry
from models.scorer import Model
from models.variants import CHALLENGER

RETRY_SECONDS = 30.0


class ModelSlot:
    """Holds one model for any number of threads. The old one is freed once no batch holds it any more.

    `clock` is a monotonic clock in seconds, `clock_ms` the wall clock in ms UTC. `refused` says why the version that
    the alias points to is not the one in service; `loaded_since` is when that one was loaded, in ms UTC.
    """

    def __init__(
        self,
        registry: ModelRegistry,
        alias: str = CHAMPION,
        *,
        every: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.refused: str | None = None
        self.loaded_since: int | None = None
        self._registry = registry
        self._alias = alias
        self._every = every
        self._clock = clock
        self._clock_ms = clock_ms
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

        A version that does not verify is refused once, and tried again when the alias moves. Where the store does not
        answer, the present model stays. Call it between batches: loading takes up to a second.
        """
        if self._model is None or self._clock() - self._looked_at < self._every:
            return False
        with self._lock:
            self._looked_at = self._clock()
            target: Alias | None = None
            try:
                target = self._registry.alias(self._alias)
                if target is None or target == self._judged:
                    return False
                if target.version == self._model.version:
                    self._judged, self.refused = target, None
                    return False
                self._serve(self._registry.verify(target.version), target)
            except Transient:
                return False
            except UserError as error:
                self._judged, self.refused = target, str(error)
                return False
            return True

    def _load(self) -> Model:
        target = self._registry.alias(self._alias)
        if target is None:
            raise UserError(
                f"no model is promoted to {self._alias} in {self._registry.url}: "
                "run `leadstream train`, then `leadstream models promote VERSION`"
            )
        self._looked_at = self._clock()
        return self._serve(self._registry.verify(target.version), target)

    def _serve(self, model: Model, target: Alias) -> Model:
        self._model, self._judged, self.refused, self.loaded_since = model, target, None, self._clock_ms()
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
    ) -> None:
        self.loaded: Model | None = None
        self.loaded_since: int | None = None
        self.refused: str | None = None
        self.unanswered: str | None = None
        self._registry = registry
        self._every = every
        self._clock = clock
        self._clock_ms = clock_ms
        self._judged: Alias | None = None
        self._look_at = clock()

    def follow(self, champion: str, obstacle: Callable[[], str | None] = lambda: None) -> Model | None:
        """Follow the alias, and return the challenger for the next batch; looks at most once in `every` seconds.

        There is none while the alias is not set or points to the version of the champion. `obstacle` is asked before a
        version is loaded, and may say why none can serve. That and a store that does not answer are tried again after
        RETRY_SECONDS; a version that does not verify is refused once, and tried again when the alias moves.
        """
        if self.loaded is not None and self.loaded.version == champion:
            self.loaded = None
        if self._clock() < self._look_at:
            return self.loaded
        self._look_at = self._clock() + self._every
        target: Alias | None = None
        try:
            target = self._registry.alias(CHALLENGER)
            if target is None or target.version == champion:
                self.loaded = self._judged = self.refused = self.unanswered = None
            elif target != self._judged or (self.loaded is None and self.refused is None):
                self._judge(target, obstacle)
            else:
                self.unanswered = None
        except Transient as trouble:
            self._wait(str(trouble))
        except UserError as error:
            self._judged, self.refused, self.unanswered = target, str(error), None
        return self.loaded

    def withdraw(self, why: str) -> None:
        """Take the challenger out of service until its alias moves."""
        self.loaded, self.refused = None, why

    def suspend(self, why: str) -> None:
        """Take the challenger out of service for RETRY_SECONDS."""
        self.loaded = None
        self._wait(why)

    def _judge(self, target: Alias, obstacle: Callable[[], str | None]) -> None:
        if self.loaded is None or self.loaded.version != target.version:
            if why := obstacle():
                self._wait(why)
                return
            self.loaded, self.loaded_since = self._registry.verify(target.version), self._clock_ms()
        self._judged, self.refused, self.unanswered = target, None, None

    def _wait(self, why: str) -> None:
        self.unanswered, self._look_at = why, self._clock() + RETRY_SECONDS
