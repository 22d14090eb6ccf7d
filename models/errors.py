"""The one error tree.

    DarkroomError                 500  internal_error
    ├── InvalidRequest            400  invalid_value            names the field in `param`
    │   └── UnknownModel          404  model_not_found
    ├── Unauthorized              401  invalid_api_key          no key, or not one of ours
    ├── Forbidden                 403  forbidden                another site's page, or a host name that is not ours
    ├── NotFound                  404  not_found
    ├── RequestTimeout            408  request_timeout          the body did not arrive in time
    ├── JobEnded                  409  job_ended
    ├── Gone                      410  gone                     the job's result has expired
    ├── TooLarge                  413  body_too_large
    ├── KeyReused                 422  idempotency_key_reused
    ├── HeadersTooLarge           431  headers_too_large
    ├── QueueFull                 429  queue_full               carries `retry_after_s`
    │   ├── OwnLineFull           429  own_line_full            as much of the owner waits as may
    │   ├── QuotaExceeded         429  quota_exceeded           a key's work of the day is spent
    │   └── TooManyRequests       429  too_many_requests        as many of the owner's requests are open as may be
    ├── Unavailable               503  unavailable              no replica can answer now
    │   ├── NoReplica             503  no_replica               no replica of a deployment runs
    │   ├── StoreUnavailable      503  store_unavailable        the database cannot be reached or written
    │   └── Superseded            503  superseded               another Dispatcher has taken over
    ├── ReplicaLost               503  replica_lost             a picture's replica died too often
    ├── DeadlineExceeded          504  deadline_exceeded        a job's time was over before its pictures were drawn
    ├── StorageFull               507  storage_full             a picture could not be written
    ├── NonFinite                 500  non_finite               NaN or Inf in latents or pixels
    ├── OutOfMemory               500  out_of_memory            a picture that does not fit, even alone
    ├── UnreadableJob             500  unreadable_job           its record in the database is damaged
    ├── UnusableCheckpoint        500  unusable_checkpoint      at start only
    └── UnsupportedSampler        500  unsupported_sampler      a scheduler that no plan can express

`message` is written for clients and is all they get: across actors `str(exc)` is a traceback. Every class takes its
message first and pickles.
"""

from typing import ClassVar


class DarkroomError(Exception):
    """Base of all errors that a client may see."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"

    def __init__(self, message: str = "Something went wrong on our side.", param: str | None = None) -> None:
        super().__init__(message, param)
        self.message = message
        self.param = param

    def __str__(self) -> str:
        return self.message


class InvalidRequest(DarkroomError):
    """The request breaks a bound; `param` is the field."""

    status = 400
    code = "invalid_value"


class UnknownModel(InvalidRequest):
    """No such model is served here."""

    status = 404
    code = "model_not_found"


class Unauthorized(DarkroomError):
    """The service wants an API key, and this is none."""

    status = 401
    code = "invalid_api_key"

    def __init__(self, message: str = "An API key is needed.", param: str | None = None) -> None:
        super().__init__(message, param)


class Forbidden(DarkroomError):
    """The request names a host that is not this service's, or comes from another site's page."""

    status = 403
    code = "forbidden"


class NotFound(DarkroomError):
    """No such job or file, or it is somebody else's."""

    status = 404
    code = "not_found"


class RequestTimeout(DarkroomError):
    """The body did not arrive in time."""

    status = 408
    code = "request_timeout"


class JobEnded(DarkroomError):
    """The job has ended already."""

    status = 409
    code = "job_ended"


class Gone(DarkroomError):
    """The job was there; its result has expired."""

    status = 410
    code = "gone"


class KeyReused(DarkroomError):
    """An `Idempotency-Key` that came with another request before."""

    status = 422
    code = "idempotency_key_reused"


class TooLarge(DarkroomError):
    """The body is larger than is read."""

    status = 413
    code = "body_too_large"


class HeadersTooLarge(DarkroomError):
    """The headers are larger than is read."""

    status = 431
    code = "headers_too_large"


class QueueFull(DarkroomError):
    """The line is full; nothing was queued."""

    status = 429
    code = "queue_full"

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.args = (message, retry_after_s)
        self.retry_after_s = retry_after_s


class OwnLineFull(QueueFull):
    """As many of the owner's pictures wait as may; nothing was queued."""

    code = "own_line_full"


class QuotaExceeded(QueueFull):
    """The owner's work of the day is spent; nothing was queued."""

    code = "quota_exceeded"


class TooManyRequests(QueueFull):
    """As many of the owner's requests are open as may be; nothing was queued."""

    code = "too_many_requests"


class Unavailable(DarkroomError):
    """No replica can answer now."""

    status = 503
    code = "unavailable"


class NoReplica(Unavailable):
    """A deployment has no replica: it failed to start, or its application is not there."""

    code = "no_replica"


class StoreUnavailable(Unavailable):
    """The database of jobs cannot be reached or written. Which one, and why, is for operators: `reason`."""

    code = "store_unavailable"

    def __init__(self, reason: str, param: str | None = None) -> None:
        super().__init__("The database of jobs cannot be used now.", param)
        self.args = (reason, param)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class Superseded(Unavailable):
    """Another Dispatcher has taken over; whoever asked should ask again."""

    code = "superseded"

    def __init__(self, message: str = "Another Dispatcher has taken over.", param: str | None = None) -> None:
        super().__init__(message, param)


class DeadlineExceeded(DarkroomError):
    """A job's time was over before its pictures were drawn."""

    status = 504
    code = "deadline_exceeded"


class StorageFull(DarkroomError):
    """A finished picture could not be written."""

    status = 507
    code = "storage_full"


class ReplicaLost(DarkroomError):
    """The replicas that worked on a picture died."""

    status = 503
    code = "replica_lost"


class OtherWeights(DarkroomError):
    """The stages of a picture had different weights, as while a model is being replaced; it should be drawn again."""

    status = 503
    code = "other_weights"


class NonFinite(DarkroomError):
    """A picture turned into NaN or Inf."""

    code = "non_finite"


class OutOfMemory(DarkroomError):
    """A picture that does not fit into the device's memory, even alone."""

    code = "out_of_memory"


class UnreadableJob(DarkroomError):
    """The job's record in the database is damaged."""

    code = "unreadable_job"


class UnusableCheckpoint(DarkroomError):
    """A checkpoint that cannot be served: which file, and why."""

    code = "unusable_checkpoint"


class UnsupportedSampler(DarkroomError):
    """A scheduler that is not linear in its inputs, or not finite at this step count."""

    code = "unsupported_sampler"


def _tree(root: type[DarkroomError]) -> list[type[DarkroomError]]:
    return [root, *(error for child in root.__subclasses__() for error in _tree(child))]


BY_CODE: dict[str, type[DarkroomError]] = {error.code: error for error in _tree(DarkroomError)}
