"""Who may call an application, and how much of a replica one caller may use: the same for the API and the page."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from ray import serve

from deployments.keys import Keyring


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessPolicy:
    """What the middleware of an application checks requests against."""

    keys: Keyring | None = None  # None: no key is needed
    allowed_hosts: Collection[str] = ()  # without keys: names in `Host`, besides addresses and localhost
    cors_origins: Collection[str] = ()  # of other sites' pages that may call; `*` is any
    max_ongoing_requests: int = 1000  # that Serve passes to a replica at a time

    @classmethod
    def of_replica(
        cls, keys_path: Path | None, allowed_hosts: Collection[str], cors_origins: Collection[str] = ()
    ) -> "AccessPolicy":
        """Return the policy of the replica that calls this.

        Raises:
            UnusableKeys: the file of keys cannot be used.
        """
        return cls(
            keys=None if keys_path is None else Keyring(keys_path),
            allowed_hosts=allowed_hosts,
            cors_origins=cors_origins,
            max_ongoing_requests=serve.get_replica_context()._deployment_config.max_ongoing_requests,
        )
