"""The whole error tree, by the codes that clients get. `error_responses` has their HTTP statuses.

DarkroomError                 internal_error
├── InvalidRequest            invalid_value            names the field in `param`
│   ├── InvalidImage          invalid_image            an image file that cannot be used
│   ├── UnknownModel          model_not_found
│   ├── InputNotFound         input_not_found          no such input, or it is somebody else's
│   └── UnsupportedSampler    unsupported_sampler      a scheduler that no plan can express, or not in so many steps
├── Unauthorized              invalid_api_key          no key, or not one of ours
├── Forbidden                 forbidden                another site's page, or a host name that is not ours
├── NotFound                  not_found
├── RequestTimeout            request_timeout          the body did not arrive in time
├── JobEnded                  job_ended
├── InputInUse                input_in_use             a job that has not ended needs the input
├── Gone                      gone                     the job's result has expired
├── TooLarge                  body_too_large
├── IdempotencyKeyReused      idempotency_key_reused
├── HeadersTooLarge           headers_too_large
├── QueueFull                 queue_full               carries `retry_after_s`
│   ├── OwnerQueueFull        owner_queue_full         as many of the owner's images wait as may
│   ├── QuotaExceeded         quota_exceeded           a key's work of the day is spent
│   ├── InputQuotaExceeded    input_quota_exceeded     as many bytes of the owner's inputs are kept as may be
│   └── TooManyRequests       too_many_requests        as many of the owner's requests are open as may be
├── Unavailable               unavailable              no replica can answer now
│   ├── NoReplica             no_replica               no replica of a deployment runs
│   ├── StoreUnavailable      store_unavailable        the database cannot be reached or written
│   └── Superseded            superseded               another Dispatcher has taken over
├── ReplicaLost               replica_lost             a picture's replica died too often
├── DeadlineExceeded          deadline_exceeded        a job's time was over before its pictures were drawn
├── StorageFull               storage_full             a picture could not be written
├── WeightsMismatch           weights_mismatch         the model is being replaced for too long
├── NonFinite                 non_finite               NaN or Inf in latents or pixels
├── OutOfMemory               out_of_memory            a picture that does not fit, even alone
├── Refused                   image_refused            a post-processor does not let an image out
├── PostProcessFailed         postprocess_failed       a post-processor failed on an image
├── AdapterChanged            adapter_changed          an adapter's file is not what it was when the job was accepted
├── UnusableAdapter           unusable_adapter         an adapter file that cannot be used
├── UnreadableJob             unreadable_job           its record in the database is damaged
└── UnusableCheckpoint        unusable_checkpoint      at start only
"""

from models.errors import DarkroomError, InvalidRequest, Unavailable


class UnknownModel(InvalidRequest):
    """No such model is served here."""

    code = "model_not_found"


class InputNotFound(InvalidRequest):
    """No such input, or it is somebody else's; `param` is the field that names it."""

    code = "input_not_found"


class InputInUse(DarkroomError):
    """A job that has not ended needs the input."""

    code = "input_in_use"


class Unauthorized(DarkroomError):
    """The service wants an API key, and this is none."""

    code = "invalid_api_key"

    def __init__(self, message: str = "An API key is needed.", param: str | None = None) -> None:
        super().__init__(message, param)


class Forbidden(DarkroomError):
    """The request names a host that is not this service's, or comes from another site's page."""

    code = "forbidden"


class NotFound(DarkroomError):
    """No such job or file, or it is somebody else's."""

    code = "not_found"


class RequestTimeout(DarkroomError):
    """The body did not arrive in time."""

    code = "request_timeout"


class JobEnded(DarkroomError):
    """The job has ended already."""

    code = "job_ended"


class Gone(DarkroomError):
    """The job was there; its result has expired."""

    code = "gone"


class IdempotencyKeyReused(DarkroomError):
    """An `Idempotency-Key` that came with another request before."""

    code = "idempotency_key_reused"


class TooLarge(DarkroomError):
    """The body is larger than is read."""

    code = "body_too_large"


class HeadersTooLarge(DarkroomError):
    """The headers are larger than is read."""

    code = "headers_too_large"


class QueueFull(DarkroomError):
    """The queue is full; nothing was queued."""

    code = "queue_full"

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.args = (message, retry_after_s)
        self.retry_after_s = retry_after_s


class OwnerQueueFull(QueueFull):
    """As many of the owner's images wait as may; nothing was queued."""

    code = "owner_queue_full"


class QuotaExceeded(QueueFull):
    """The owner's work of the day is spent; nothing was queued."""

    code = "quota_exceeded"


class InputQuotaExceeded(QueueFull):
    """As many bytes of the owner's inputs are kept as may be; nothing was stored."""

    code = "input_quota_exceeded"


class TooManyRequests(QueueFull):
    """As many of the owner's requests are open as may be; nothing was queued."""

    code = "too_many_requests"


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

    code = "deadline_exceeded"


class StorageFull(DarkroomError):
    """A finished picture could not be written."""

    code = "storage_full"


class ReplicaLost(DarkroomError):
    """The replicas that worked on a picture died."""

    code = "replica_lost"


class WeightsMismatch(DarkroomError):
    """The stages of a picture had different weights, as while a model is being replaced; it should be drawn again."""

    code = "weights_mismatch"


class UnreadableJob(DarkroomError):
    """The job's record in the database is damaged."""

    code = "unreadable_job"


def _tree(root: type[DarkroomError]) -> list[type[DarkroomError]]:
    return [root, *(error for child in root.__subclasses__() for error in _tree(child))]


BY_CODE: dict[str, type[DarkroomError]] = {error.code: error for error in _tree(DarkroomError)}
