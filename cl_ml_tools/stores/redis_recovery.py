"""Recovery's side of the record of jobs in Redis."""

from collections.abc import Sequence
from typing import Any

from cl_ml_tools.common.job_leases import Dispatch
from cl_ml_tools.common.job_recovery import Recovered
from cl_ml_tools.stores._records import read_dispatch
from cl_ml_tools.stores.redis_jobs import RedisJobStore

CHUNK = 100
"""How many jobs one act treats at most, so that no script keeps the server from others for long."""


class RedisRecovery:
    """A `cl_ml_tools.common.job_recovery.JobRecovery` on a store's records.

    Args:
        store: the records.
        lease_seconds: how long a lease lasts.
        max_leases_lost: a job whose lease ended with its node this often ends in ``error``.
        lost_message_seconds: how long a queued job may be overtaken before its message counts as lost.
        retention_days: how long jobs are kept after their end; 0 keeps them for ever.
    """

    def __init__(
        self,
        store: RedisJobStore,
        *,
        lease_seconds: float,
        max_leases_lost: int,
        lost_message_seconds: float,
        retention_days: float,
    ) -> None:
        self._store = store
        self._lease_ms = int(lease_seconds * 1000)
        self._max_leases_lost = max_leases_lost
        self._patience_ms = int(lost_message_seconds * 1000)
        self._retention_ms = int(retention_days * 24 * 3600 * 1000)

    def recover_leases(self) -> Recovered:
        """See `JobRecovery.recover_leases`."""
        flat = self._store.scripts.run("recover_leases", self._lease_ms, self._max_leases_lost, CHUNK)
        return self._recovered(flat)

    def recover_messages(self) -> Recovered:
        """See `JobRecovery.recover_messages`."""
        job_ids = self._store.scripts.run(
            "recover_messages", self._patience_ms, 60 * self._patience_ms, CHUNK
        )
        acts = [("resent", job_id) for job_id in job_ids]
        return Recovered(acts, self._dispatches(job_ids), len(job_ids) < CHUNK)

    def watch_anew(self, unsent: Sequence[Dispatch]) -> None:
        """See `JobRecovery.watch_anew`."""
        lines = {f"{dispatch.task_type}:{dispatch.priority}" for dispatch in unsent}
        client, watched = self._store.client, self._store.keys("watched")
        self._store.scripts.call(lambda: client.hdel(watched, *lines))

    def recover_due(self) -> Recovered:
        """See `JobRecovery.recover_due`."""
        return self._recovered(self._store.scripts.run("recover_due", CHUNK))

    def retire(self) -> Recovered:
        """See `JobRecovery.retire`."""
        if self._retention_ms == 0:
            return Recovered()
        job_ids = self._store.scripts.run("retire", self._retention_ms, CHUNK)
        return Recovered([("retired", job_id) for job_id in job_ids], (), len(job_ids) < CHUNK)

    def _recovered(self, flat: list[str]) -> Recovered:
        acts = list(zip(flat[::2], flat[1::2], strict=True))
        queued = [job_id for word, job_id in acts if word == "queued"]
        return Recovered(acts, self._dispatches(queued), len(acts) < CHUNK)

    def _dispatches(self, job_ids: Sequence[str]) -> list[Dispatch]:
        """The messages of those that are still queued; a reply lost here costs one round of patience."""
        client, keys = self._store.client, self._store.keys

        def read() -> list[Any]:
            pipeline = client.pipeline(transaction=False)
            for job_id in job_ids:
                pipeline.hgetall(keys("job", job_id))
            return pipeline.execute()

        records = self._store.scripts.call(read) if job_ids else []
        return [
            read_dispatch(job_id, fields)
            for job_id, fields in zip(job_ids, records, strict=True)
            if fields.get("status") == "queued"
        ]
