"""Containers with testcontainers; its reaper removes them if this process is killed."""

import contextlib
import importlib.util
import os
import socket
from collections.abc import Iterator
from typing import Any

from leadstream.errors import UserError, error_text


def require_engine() -> None:
    """Check that a Docker engine answers. Raises UserError if none does.

    A `docker` command is often installed without an engine.
    """
    if importlib.util.find_spec("testcontainers") is None:
        raise UserError("the package testcontainers is not installed (leadstream[local] has it).")
    import docker  # type: ignore[import-untyped]  # noqa: PLC0415  (an extra)
    from docker.errors import DockerException  # type: ignore[import-untyped]  # noqa: PLC0415
    from testcontainers.core.docker_client import get_docker_host  # noqa: PLC0415

    # From DOCKER_HOST or the current context, like the containers.
    host = get_docker_host()
    try:
        address = docker.utils.parse_host(host)
        if address.startswith("http+unix://"):
            # First by hand: the client leaks its socket when nothing listens.
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(3)
                probe.connect(address.removeprefix("http+unix://"))
        environ = {**os.environ, "DOCKER_HOST": host} if host else os.environ
        with contextlib.closing(docker.from_env(timeout=3, environment=environ)) as client:
            client.ping()
    except (DockerException, OSError) as error:
        raise UserError("no Docker engine answers.") from error


@contextlib.contextmanager
def run_container(container: Any, name: str) -> Iterator[None]:
    """Run a container for the block, then remove it. Raises UserError if it does not start."""
    from docker.errors import DockerException  # noqa: PLC0415

    try:
        try:
            container.start()
        # Time-outs are OSErrors; testcontainers raises RuntimeErrors.
        except (DockerException, OSError, RuntimeError) as error:
            raise UserError(f"the {name} container did not start: {error_text(error)}") from error
        yield
    finally:
        # Without an engine, the reaper removes the container.
        with contextlib.suppress(DockerException, OSError):
            container.stop()
