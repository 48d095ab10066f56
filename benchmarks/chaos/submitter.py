"""A master that submits, cancels, retries and deletes at random; its journal says what it was answered.

Each line is written before the next step, so that a journal tells all that was answered before a kill:
``I``ntent to add, ``A``ccepted, ``C``ancel, ``R``etry and ``D``elete, each with the job and the answer.
"""

import json
import os
import random
import sys
import time
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn

from cl_ml_tools.app import create_repository, create_storage
from cl_ml_tools.celery_bridge import CeleryJobRepository
from cl_ml_tools.common.schemas import Job, JobStatus
from cl_ml_tools.errors import JobStateError, StoreUnavailableError, UnknownJobError

MAX_QUEUED = 40
"""No more is submitted while so many wait, so that a job's wait is its recovery and no backlog."""


class Submitter:
    def __init__(self, folder: Path, seed: str) -> None:
        self._random = random.Random(seed)
        self._traces = str(folder / "traces")
        self._storage = create_storage()
        self._repository: CeleryJobRepository = create_repository()
        path = folder / "journals" / f"{os.getpid()}-{time.monotonic_ns()}"
        self._journal = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._mine: list[str] = []

    def note(self, *words: Any) -> None:
        os.write(self._journal, (json.dumps(words) + "\n").encode())

    def run(self) -> NoReturn:
        while True:
            try:
                self.step()
            except StoreUnavailableError:
                time.sleep(0.2)

    def step(self) -> None:
        store = self._repository.store
        queued = store.client.zcard(store.keys("status", JobStatus.QUEUED))
        if int(queued) > MAX_QUEUED:
            time.sleep(0.1)
        else:
            self.add()
        if self._mine and self._random.random() < 0.10:
            self.disturb(self._random.choice(self._mine[-30:]))
        time.sleep(self._random.expovariate(20))

    def add(self) -> None:
        job_id = str(uuid.UUID(int=self._random.getrandbits(128), version=4))
        job_id = f"{job_id}-{os.getpid()}"
        kind = self._random.choices(
            ["plain", "long", "fails", "transient", "poison", "slow", "later", "expires"],
            [60, 4, 8, 6, 2, 2, 4, 4],
        )[0]
        task_type = {"poison": "chaos_poison", "slow": "chaos_slow"}.get(kind, "chaos")
        directory = self._storage.create_job_directory(job_id)
        outputs = [
            str(directory / "output" / f"{number}.bin") for number in range(self._random.randint(1, 3))
        ]
        params = {
            "traces": self._traces,
            "output_paths": outputs,
            "seconds": self._seconds(kind),
            "blocking": self._random.random() < 0.3,
            "fails": kind == "fails",
            "fails_first": kind == "transient",
        }
        now = datetime.now(UTC)
        when: dict[str, Any] = {}
        if kind == "later":
            when = {"not_before": now + timedelta(seconds=self._random.uniform(0, 3))}
        elif kind == "expires":
            when = {"expires": now + timedelta(seconds=self._random.uniform(0.1, 10))}
        self.note("I", job_id, kind)
        self._repository.add_job(
            Job(job_id=job_id, task_type=task_type, params=params),
            priority=self._random.randint(0, 10),
            **when,
        )
        self.note("A", job_id, kind)
        self._mine.append(job_id)

    def _seconds(self, kind: str) -> float:
        if kind == "long":
            return self._random.uniform(4, 10)
        return 3.0 if kind == "slow" else self._random.uniform(0, 0.4)

    def disturb(self, job_id: str) -> None:
        act = self._random.choices(["cancel", "retry", "delete"], [5, 3, 2])[0]
        # Noted before as well: a killed master may have done what it could not write down.
        self.note(act[0].lower(), job_id)
        try:
            if act == "cancel":
                self.note("C", job_id, self._repository.cancel_job(job_id))
            elif act == "retry":
                self._repository.retry_job(job_id)
                self.note("R", job_id, True)
            else:
                deleted = self._repository.delete_job(job_id)
                self.note("D", job_id, deleted)
        except (JobStateError, UnknownJobError):
            self.note("N", job_id, act)


Submitter(Path(sys.argv[1]), sys.argv[2]).run()
