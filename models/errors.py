"""The root of the error tree, and what goes wrong with tensors and checkpoints. `deployments.errors` has the rest.

`message` is written for clients and is all they get: across actors `str(exc)` is a traceback. Every class takes its
message first and pickles.
"""

from typing import ClassVar


class DarkroomError(Exception):
    """Base of all errors that a client may see."""

    code: ClassVar[str] = "internal_error"

    def __init__(self, message: str = "Something went wrong on our side.", param: str | None = None) -> None:
        super().__init__(message, param)
        self.message = message
        self.param = param

    def __str__(self) -> str:
        return self.message


class InvalidRequest(DarkroomError):
    """The request breaks a bound; `param` is the field."""

    code = "invalid_value"


class InvalidImage(InvalidRequest):
    """An image file that cannot be used: why, and what to do. Whoever reads a field's image adds the field."""

    code = "invalid_image"


class Unavailable(DarkroomError):
    """No replica can answer now."""

    code = "unavailable"


class NonFinite(DarkroomError):
    """A picture turned into NaN or Inf."""

    code = "non_finite"


class OutOfMemory(DarkroomError):
    """A picture that does not fit into the device's memory, even alone."""

    code = "out_of_memory"


class Refused(DarkroomError):
    """An operator's post-processor does not let an image out; the message is the operator's."""

    code = "image_refused"

    def __init__(self, message: str = "The image was refused.", param: str | None = None) -> None:
        super().__init__(message, param)


class PostProcessFailed(DarkroomError):
    """An operator's post-processor failed on an image; the log says which one, and why."""

    code = "postprocess_failed"


class UnusableCheckpoint(DarkroomError):
    """A checkpoint that cannot be served: which file, and why."""

    code = "unusable_checkpoint"


class UnusableAdapter(DarkroomError):
    """An adapter file that cannot be used: why. Whoever names the file adds its name."""

    code = "unusable_adapter"


class AdapterChanged(DarkroomError):
    """An adapter file is not what it was when the job was accepted."""

    code = "adapter_changed"


class UnsupportedSampler(InvalidRequest):
    """A scheduler that is not linear in its inputs, or not finite at this step count. No other try would help."""

    code = "unsupported_sampler"
