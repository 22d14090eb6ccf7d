"""Handles of other applications, and Ray's errors translated to ours: the one place that knows both."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from ray import serve
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    LocalRayletDiedError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayError,
    RayTaskError,
    TaskCancelledError,
    WorkerCrashedError,
)
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle

from deployments.errors import NoReplica, ReplicaLost
from models.errors import DarkroomError, Unavailable

logger = logging.getLogger(f"ray.serve.{__name__}")  # whose lines carry the request id

LOSSES = (  # of a replica, or with its node of what it had made
    ActorDiedError,
    ActorUnavailableError,
    LocalRayletDiedError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,  # of the node, whose memory monitor killed it
    TaskCancelledError,
    WorkerCrashedError,
)


@contextmanager
def translated() -> Iterator[None]:
    """Raise our own error for what goes wrong in a call by handle; an unknown one is logged and becomes a plain 500."""
    try:
        yield
    except RayError as error:
        raise translate(error) from None
    except DeploymentUnavailableError as error:
        raise NoReplica("No replica can take the request now.") from error
    except (BackPressureError, RayServeException) as error:
        raise Unavailable("No replica can take the request now.") from error


def translate(error: RayError) -> DarkroomError:
    """Return our error for one of Ray's."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, DarkroomError):
        return type(cause)(*cause.args)
    if isinstance(cause, LOSSES):
        return ReplicaLost("The replica that worked on this died.")
    if isinstance(cause, RayTaskError):
        return translate(cause)
    logger.error("unexpected error from a replica: %s", error)
    return DarkroomError()


def handle_of(deployment: str, app_name: str) -> DeploymentHandle:
    """Return the handle of a deployment of another application.

    Raises:
        NoReplica: there is no such application yet.
    """
    try:
        return serve.get_deployment_handle(deployment, app_name)
    except (RayServeException, KeyError) as error:
        raise NoReplica(f"{app_name} is still starting.") from error
