"""What a dialect calls the fields of a request: one mapping, by which its bodies are read and its errors worded."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BeforeValidator

from deployments.request_errors import read_request, request_error
from deployments.schema import GenerationRequest, fields_but
from models.errors import DarkroomError, InvalidRequest
from models.model_card import ModelCard
from models.validation import field_of

Raised = TypeVar("Raised", bound=DarkroomError)


def refused(reason: str) -> BeforeValidator:
    """Return what refuses a field with a reason."""

    def refuse(value: object) -> None:
        if value is not None:
            raise ValueError(f"is not supported here: {reason}")

    return BeforeValidator(refuse)


@dataclass(frozen=True, slots=True)
class Dialect:
    """`names` has what callers of the dialect know by another name than `GenerationRequest`: its fields, and members of
    its objects by their paths, as `init.strength`."""

    names: Mapping[str, str]

    def shared_fields(self, *others: str) -> dict[str, Any]:
        """Return the fields that the dialect has as they are, but `others`, as `create_model` takes them."""
        return fields_but(*self.names, *others)

    def read(self, values: Mapping[str, Any], kind: type[GenerationRequest] = GenerationRequest) -> GenerationRequest:
        """Return the request that some values are, by the names of `GenerationRequest`.

        Raises:
            InvalidRequest: in the dialect's names.
        """
        with self.errors():
            return read_request(values, kind=kind)

    def request_error(self, problem: Any, card: ModelCard, sampler: Any) -> InvalidRequest:
        """Return our error for one of pydantic's about a bound of a body's field, by the bound of the model."""
        fields = {known: field for field, known in self.names.items()}
        location = [each for part in problem["loc"] for each in _parts(fields.get(part, part))]
        return self._translate(request_error({**problem, "loc": location}, card, sampler))

    def sampler_of(self, body: Mapping[str, Any]) -> Any:
        """Return the sampler that a body names."""
        return body.get(self.names.get("sampler", "sampler"))

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Raise what is raised inside with the dialect's names."""
        try:
            yield
        except DarkroomError as error:
            raise self._translate(error) from None

    def warning(self, warning: str) -> str:
        """Return a warning in the dialect's names: of a job's, which begins with its field."""
        field, space, rest = warning.partition(" ")
        return self.names.get(field, field) + space + rest

    def _translate(self, error: Raised) -> Raised:
        """Rename the field of an error, with which its message begins."""
        path = error.param or ""
        known = path if path in self.names else field_of(path)
        if known not in self.names:
            return error
        named = self.names[known] + path.removeprefix(known)
        message = named + error.message.removeprefix(path) if error.message.startswith(path) else error.message
        return type(error)(message, named)


def _parts(name: Any) -> list[Any]:
    return name.split(".") if isinstance(name, str) else [name]
