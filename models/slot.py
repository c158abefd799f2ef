"""The model in service: loaded once, looked at between batches, swapped when its alias moves."""

import threading
import time
from collections.abc import Callable

from leadstream.errors import Transient, UserError
from models.registry import CHAMPION, Alias, ModelRegistry
from models.scorer import Model

PATIENCE = 30  # how many times longer a store is left alone that did not answer


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
        answer, the present model stays, and it is asked again after `PATIENCE` times as long. Call it between batches:
        loading takes up to a second.
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
                self._looked_at = self._clock() + (PATIENCE - 1) * self._every  # asking may take seconds
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
