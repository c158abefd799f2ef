"""Containers by testcontainers, where a Docker engine answers; its reaper removes them if this process is killed."""

import contextlib
import importlib.util
from collections.abc import Iterator
from typing import Any

from leadstream.errors import UserError


def require_engine() -> None:
    """Ping the engine, for a `docker` command without one is common; raises UserError unless it answers."""
    if importlib.util.find_spec("testcontainers") is None:
        raise UserError("the package testcontainers is not installed (it comes with leadstream[local]).")
    import docker  # type: ignore[import-untyped]  # noqa: PLC0415  (an extra)
    from docker.errors import DockerException  # type: ignore[import-untyped]  # noqa: PLC0415

    try:
        with contextlib.closing(docker.from_env(timeout=3)) as client:
            client.ping()
    except (DockerException, OSError) as error:
        raise UserError("no Docker engine answers.") from error


@contextlib.contextmanager
def started(container: Any, name: str) -> Iterator[None]:
    """Start a container for the block; raises UserError when it does not start. It is removed in any case."""
    from docker.errors import DockerException  # noqa: PLC0415

    try:
        try:
            container.start()
        except (
            DockerException,
            OSError,
            RuntimeError,
        ) as error:  # OSError has the time-outs, RuntimeError testcontainers' own
            raise UserError(f"the {name} container did not start: {error}") from error
        yield
    finally:
        container.stop()
