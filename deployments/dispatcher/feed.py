"""What one ingress replica reads: the newest state of each job that changed since it last looked."""

import asyncio

from deployments.errors import Superseded
from deployments.jobs import Job


class Feed:
    """No log, no replay: an older state that was not read is forgotten."""

    def __init__(self) -> None:
        self._changes: dict[str, Job] = {}
        self._some = asyncio.Event()
        self._ended = False

    def put(self, job: Job) -> None:
        """Note a change."""
        self._changes[job.id] = job
        self._some.set()

    def end(self) -> None:
        """Let the reader go."""
        self._ended = True
        self._some.set()

    async def changes(self) -> list[Job]:
        """Wait for changes and take them.

        Raises:
            Superseded: the feed has ended: the reader should look for the next Dispatcher's.
        """
        await self._some.wait()
        if self._ended:
            raise Superseded
        self._some.clear()
        changes, self._changes = self._changes, {}
        return list(changes.values())
