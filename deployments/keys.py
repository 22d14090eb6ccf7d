"""API keys: 256 random bits each. A file holds their hashes, and what each may ask for."""

import hashlib
import hmac
import logging
import secrets
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from starlette.types import Scope

from models.validation import Matching, first_problem

OWNER = "key:"  # what the names of owners with a key begin with
COOKIE = "darkroom"  # which the page sets: with keys on the key, else a random name for the browser
LARGEST_FILE = 2**20  # bytes
KeyName = Annotated[
    str,
    Matching(r"[a-z0-9][a-z0-9_.-]{0,63}", "up to 64 of a-z, 0-9, _, . and -, the first one a letter or a digit"),
]
KeyId = Annotated[str, Matching(r"[0-9a-f]{8}", "8 hexadecimal digits in lower case")]
Sha256 = Annotated[str, Matching(r"[0-9a-f]{64}", "64 hexadecimal digits in lower case")]
logger = logging.getLogger(f"ray.serve.{__name__}")  # whose lines carry the request id


class ApiKey(BaseModel):
    """One key, without its secret."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: KeyName
    id: KeyId | None = Field(None, description="Tells it from other keys of this name, in time.")
    sha256: Sha256 = Field(description="Of the secret.")
    max_waiting: Annotated[int, Field(ge=1)] | None = Field(None, description="Pictures in line at a time.")
    max_cost_per_day: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        None, description="Megapixel steps (`ImageSpec.cost`) of the jobs accepted in a day, UTC."
    )

    @property
    def owner(self) -> str:
        """Whose jobs it gives: not those of an earlier key of this name. Keys of before there were ids have none."""
        return f"{OWNER}{self.name}:{self.id}" if self.id else OWNER + self.name  # no name holds a colon


KEYS = TypeAdapter(list[ApiKey])


class UnusableKeys(ValueError):
    """The file of keys cannot be used: which one, and why."""


def new_key(name: str, max_waiting: int | None = None, max_cost_per_day: float | None = None) -> tuple[ApiKey, str]:
    """Return a key and its secret, which is kept nowhere."""
    secret = _new_secret()
    key = ApiKey(
        name=name,
        id=secrets.token_hex(4),
        sha256=digest_of(secret),
        max_waiting=max_waiting,
        max_cost_per_day=max_cost_per_day,
    )
    return key, secret


def rotated(key: ApiKey) -> tuple[ApiKey, str]:
    """Return a key with another secret, and that; its jobs and caps stay."""
    secret = _new_secret()
    return key.model_copy(update={"sha256": digest_of(secret)}), secret


def read_keys(path: Path) -> list[ApiKey]:
    """Read a file of keys.

    Raises:
        UnusableKeys: it cannot be read, or says what it may not.
    """
    try:
        if path.stat().st_size > LARGEST_FILE or not path.is_file():
            raise UnusableKeys(f"api_keys_file {path}: must be a file of at most {LARGEST_FILE} bytes.")
        keys = KEYS.validate_json(path.read_bytes())
    except OSError as error:
        raise UnusableKeys(f"api_keys_file {path}: {error.strerror}.") from error
    except ValidationError as error:
        field, words = first_problem([error.errors()[0] | {"loc": error.errors()[0]["loc"][-1:]}])
        raise UnusableKeys(f"api_keys_file {path}: {words if field != 'body' else 'is no list of keys'}") from None
    if len({key.name for key in keys}) < len(keys):
        raise UnusableKeys(f"api_keys_file {path}: two keys have one name.")
    if len({key.sha256 for key in keys}) < len(keys):
        raise UnusableKeys(f"api_keys_file {path}: two keys have one secret.")
    if digest_of("") in {key.sha256 for key in keys}:
        raise UnusableKeys(f"api_keys_file {path}: a key has no secret: its sha256 is that of nothing.")
    return keys


class Keyring:
    """The keys of a file, read again when it changes; one that cannot be read any more leaves those known in force.

    Raises:
        UnusableKeys: the file cannot be used to begin with.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = _stamp(path)
        self._keys = read_keys(path)

    def find(self, secret: str) -> ApiKey | None:
        """Return the key of a secret, in a time that does not tell how nearly another was right."""
        digest, found = digest_of(secret), None
        for key in self._current():
            if hmac.compare_digest(key.sha256, digest):
                found = key
        return found

    def of_owner(self, owner: str) -> ApiKey | None:
        """Return the key that gives an owner's jobs."""
        return next((key for key in self._current() if key.owner == owner), None)

    def _current(self) -> list[ApiKey]:
        stamp = _stamp(self._path)
        if stamp != self._stamp:
            try:
                self._keys = read_keys(self._path)
                self._stamp = stamp
            except UnusableKeys as error:  # and the next call tries again
                logger.error("the keys known before stay in force: %s", error)
        return self._keys


def cookie_of(header: str) -> str:
    """Return the page's cookie from a `Cookie` header, as it is written there; empty where there is none.

    Its characters need no quotes. `http.cookies` would take them off, in a time that grows by the square of their
    number before Python 3.11.10 and 3.12.6 (CVE-2024-7592).
    """
    cookies = (each.partition("=") for each in header.split(";"))
    return next((value.strip() for name, _, value in reversed([*cookies]) if name.strip() == COOKIE), "")


def bearer_of(header: str) -> str:
    """Return the key from an `Authorization` header; empty where there is none."""
    scheme, _, secret = header.partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else ""


def owner_of_cookie(cookie: str, keys: Keyring | None) -> str | None:
    """Return whose jobs a browser has: the key's, where keys are on. The cookie is as good as a password, so an owner's
    name does not hold it."""
    if not cookie:
        return None
    if keys is None:
        return f"browser:{digest_of(cookie)[:32]}"
    key = keys.find(cookie)
    return key.owner if key else None


def peer_of(scope: Scope) -> str:
    """Return whose a request is that says nothing of itself: its address's."""
    return f"peer:{scope['client'][0] if scope.get('client') else 'unknown'}"


def digest_of(secret: str) -> str:
    """Return what stands for a secret where others may read it: SHA-256, as 256 random bits need no slow hash."""
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()  # some character sets give lone surrogates


def _new_secret() -> str:
    return f"dk_{secrets.token_urlsafe(32)}"


def _stamp(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_size
