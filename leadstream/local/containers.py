"""Containers by testcontainers, where a Docker engine answers; its reaper removes them if this process is killed."""

import contextlib
import importlib.util
import os
import socket
from collections.abc import Iterator
from typing import Any

from leadstream.errors import UserError


def require_engine() -> None:
    """Ping the engine, for a `docker` command without one is common; raises UserError unless it answers."""
    if importlib.util.find_spec("testcontainers") is None:
        raise UserError(
            "the package testcontainers is not installed (it comes with leadstream[local])."
        )
    import docker  # type: ignore[import-untyped]  # noqa: PLC0415  (an extra)
    from docker.errors import DockerException  # type: ignore[import-untyped]  # noqa: PLC0415
    from testcontainers.core.docker_client import get_docker_host  # noqa: PLC0415

    host = (
        get_docker_host()
    )  # from DOCKER_HOST or the current context, as the containers will be started
    try:
        address = docker.utils.parse_host(host)
        if address.startswith("http+unix://"):
            # First by hand: where nobody listens, the client forgets to close its socket.
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(3)
                probe.connect(address.removeprefix("http+unix://"))
        environ = {**os.environ, "DOCKER_HOST": host} if host else os.environ
        with contextlib.closing(docker.from_env(timeout=3, environment=environ)) as client:
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
        ) as error:  # time-outs are OSErrors, testcontainers' own RuntimeErrors
            raise UserError(f"the {name} container did not start: {error}") from error
        yield
    finally:
        with contextlib.suppress(
            DockerException, OSError
        ):  # an engine that is gone: its reaper removes it
            container.stop()
