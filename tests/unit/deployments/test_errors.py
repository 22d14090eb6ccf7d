"""The error tree, and what becomes of it on its way through Ray."""

import copy
import logging
import pickle
import re
from pathlib import Path

import pytest
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    LocalRayletDiedError,
    NodeDiedError,
    OutOfMemoryError,
    OwnerDiedError,
    RayError,
    RayTaskError,
    TaskCancelledError,
    WorkerCrashedError,
)
from ray.serve.exceptions import BackPressureError, RayServeException

from deployments import errors
from deployments.error_responses import status_of
from deployments.errors import BY_CODE, NotFound, QueueFull, ReplicaLost, StoreUnavailable, UnknownModel
from deployments.serve.ray_errors import translate, translated
from models.errors import DarkroomError, InvalidRequest, NonFinite, Unavailable

ROOT = Path(__file__).parents[3]


def tree(root: type[DarkroomError] = DarkroomError) -> list[type[DarkroomError]]:
    own = [child for child in root.__subclasses__() if not child.__module__.startswith("tests.")]
    return [root, *(error for child in own for error in tree(child))]


def example(kind: type[DarkroomError]) -> DarkroomError:
    return kind("line full", 17) if issubclass(kind, QueueFull) else kind("steps must be 3.", "steps")


def facts(error: DarkroomError) -> tuple[object, ...]:
    return type(error), error.message, error.param, error.code, getattr(error, "retry_after_s", None)


@pytest.mark.parametrize("kind", tree())
def test_an_error_keeps_what_it_says_when_it_travels(kind: type[DarkroomError]) -> None:
    error = example(kind)
    for copied in (pickle.loads(pickle.dumps(error)), copy.deepcopy(error), kind(*error.args)):
        assert facts(copied) == facts(error)


@pytest.mark.parametrize("kind", [kind for kind in tree() if kind is not StoreUnavailable])
def test_an_error_as_text_is_its_message(kind: type[DarkroomError]) -> None:
    assert str(example(kind)) == example(kind).message


def test_which_database_it_is_is_for_the_log_and_not_for_clients() -> None:
    error = StoreUnavailable("The database postgresql://ada@db.internal/x cannot be used: refused")
    assert "db.internal" in str(error)
    assert error.message == "The database of jobs cannot be used now."


def test_the_tree_that_is_drawn_is_the_tree() -> None:
    drawn = re.findall(r"(?m)^[ │├└─]*([A-Z]\w+)  +([a-z_]+)", errors.__doc__ or "")
    assert sorted(drawn) == sorted((kind.__name__, kind.code) for kind in tree())


def test_the_status_of_each_code_is_the_one_that_the_documentation_gives() -> None:
    rows = re.findall(r"(?m)^\| (\d{3}) \| ((?:`\w+`(?:, )?)+) \|", (ROOT / "docs/api.md").read_text(encoding="utf-8"))
    documented = {code: int(status) for status, codes in rows for code in re.findall(r"\w+", codes)}
    inside = {"superseded", "unusable_checkpoint"}  # the one is tried again, the other keeps a model from starting
    assert documented == {kind.code: status_of(example(kind)) for kind in tree() if kind.code not in inside}


def test_codes_are_unique_and_lead_back_to_their_errors() -> None:
    assert {kind.code: kind for kind in tree()} == BY_CODE
    assert len(BY_CODE) == len(tree())


def from_an_actor(cause: BaseException) -> list[RayTaskError]:
    """A cause as Ray raises it at the caller, in the forms that it has."""
    plain = RayTaskError("Denoiser.denoise", "Traceback: secret", cause)
    return [plain, plain.as_instanceof_cause(), RayTaskError("outer", "Traceback: secret", plain)]


@pytest.mark.parametrize("kind", tree())
def test_our_error_from_another_actor_is_our_own_again_without_the_traceback(kind: type[DarkroomError]) -> None:
    for error in from_an_actor(example(kind)):
        translation = translate(error)
        assert facts(translation) == facts(example(kind))
        assert "secret" not in str(translation)


LOSSES = [
    ActorDiedError(),
    ActorUnavailableError("secret", None),
    LocalRayletDiedError(),
    NodeDiedError("secret"),
    OutOfMemoryError("secret"),
    OwnerDiedError("ab" * 28, None, "secret"),
    TaskCancelledError(),
    WorkerCrashedError(),
]


@pytest.mark.parametrize("error", LOSSES, ids=lambda error: type(error).__name__)
def test_a_replica_that_dies_is_a_replica_lost_and_so_is_what_it_had_made(error: RayError) -> None:
    for form in (error, RayTaskError("Denoiser.denoise", "Traceback: secret", error)):
        assert type(translate(form)) is ReplicaLost
        assert translate(form).message == "The replica that worked on this died."


def test_an_unknown_error_is_logged_and_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        translations = [translate(error) for error in from_an_actor(ValueError("secret"))]
    assert [facts(translation) for translation in translations] == [facts(DarkroomError())] * 3
    assert "secret" in caplog.text


@pytest.mark.parametrize(
    "error", [BackPressureError(num_queued_requests=9, max_queued_requests=9), RayServeException()]
)
def test_a_service_that_takes_no_calls_is_unavailable(error: Exception) -> None:
    with pytest.raises(Unavailable), translated():
        raise error


def test_our_own_error_passes_as_it_is() -> None:
    error = NotFound("There is no job x.")
    with pytest.raises(NotFound) as caught, translated():
        raise error
    assert caught.value is error


def test_rays_error_does_not_hang_on_ours() -> None:
    with pytest.raises(NonFinite) as caught, translated():
        raise from_an_actor(NonFinite("NaN"))[1]
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_an_unknown_model_is_an_invalid_request_that_is_not_found() -> None:
    assert issubclass(UnknownModel, InvalidRequest)
    assert (status_of(UnknownModel("no")), status_of(InvalidRequest("no"))) == (404, 400)
