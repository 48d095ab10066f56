"""What every `cl_ml_tools.JobRepository` must do."""

import threading
import uuid
from collections.abc import Sequence
from typing import Any

from cl_ml_tools.common.job_repository import JobRepository
from cl_ml_tools.common.schemas import Job


class JobRepositoryContract:
    """Subclass it, name the subclass ``Test...``, and give it a fixture ``repository``: an empty one.

    Attributes:
        is_shared_by_threads: whether several threads may use one repository at once. The protocol asks for it;
            say False when yours is used by one only.
        priorities: that jobs are added with.
    """

    is_shared_by_threads = True
    priorities: Sequence[int | None] = (5, 9, 0, 9, None, 1, 10)

    def test_it_is_a_job_repository(self, repository: Any) -> None:
        assert isinstance(repository, JobRepository)

    def test_a_job_that_was_added_is_found_as_it_was(self, repository: JobRepository) -> None:
        job = _job(params={"text": "schön", "numbers": [1, 2.5], "nothing": None, "nested": {"a": True}})
        assert repository.add_job(job, created_by="ann", priority=7) == job.job_id
        found = _get(repository, job.job_id)
        assert (found.task_type, found.params) == (job.task_type, job.params)
        assert (found.status, found.progress) == ("queued", 0)
        assert (found.task_output, found.error_message) == (None, None)

    def test_a_job_that_nobody_added_is_none(self, repository: JobRepository) -> None:
        assert repository.get_job("nobody-added-it") is None
        assert repository.update_job("nobody-added-it", progress=1) is False
        assert repository.delete_job("nobody-added-it") is False

    def test_nothing_queued_is_none(self, repository: JobRepository) -> None:
        assert repository.fetch_next_job(["contract"]) is None

    def test_the_most_urgent_is_fetched_first_and_within_a_priority_the_first(
        self, repository: JobRepository
    ) -> None:
        added = [(priority, repository.add_job(_job(), priority=priority)) for priority in self.priorities]
        fetched = [repository.fetch_next_job(["contract"]) for _ in added]
        urgent_first = sorted(added, key=lambda job: -(5 if job[0] is None else job[0]))
        assert [job.job_id for job in fetched if job is not None] == [job_id for _, job_id in urgent_first]

    def test_a_fetched_job_is_processing_and_fetched_once(self, repository: JobRepository) -> None:
        job_id = repository.add_job(_job())
        fetched = repository.fetch_next_job(["contract"])
        assert fetched is not None
        assert (fetched.job_id, fetched.status) == (job_id, "processing")
        assert _get(repository, job_id).status == "processing"
        assert repository.fetch_next_job(["contract"]) is None

    def test_only_the_task_types_asked_for_are_fetched(self, repository: JobRepository) -> None:
        repository.add_job(_job(task_type="contract_other"), priority=10)
        wanted = repository.add_job(_job(), priority=0)
        fetched = repository.fetch_next_job(["contract"])
        assert fetched is not None
        assert fetched.job_id == wanted
        assert repository.fetch_next_job(["contract"]) is None
        assert repository.fetch_next_job(["contract", "contract_other"]) is not None

    def test_progress_and_outcome_are_stored(self, repository: JobRepository) -> None:
        job_id = repository.add_job(_job())
        repository.fetch_next_job(["contract"])
        assert repository.update_job(job_id, progress=40) is True
        assert _get(repository, job_id).progress == 40
        output = {"files": ["a.png"], "size": {"width": 3}}
        assert repository.update_job(job_id, status="completed", progress=100, task_output=output) is True
        done = _get(repository, job_id)
        assert (done.status, done.progress, done.task_output) == ("completed", 100, output)

    def test_an_error_is_stored_with_its_reason_and_the_job_is_not_fetched_again(
        self, repository: JobRepository
    ) -> None:
        job_id = repository.add_job(_job())
        repository.fetch_next_job(["contract"])
        assert repository.update_job(job_id, status="error", error_message="no such colour") is True
        failed = _get(repository, job_id)
        assert (failed.status, failed.error_message) == ("error", "no such colour")
        assert repository.fetch_next_job(["contract"]) is None

    def test_a_deleted_job_is_gone(self, repository: JobRepository) -> None:
        job_id = repository.add_job(_job())
        assert repository.delete_job(job_id) is True
        assert repository.get_job(job_id) is None
        assert repository.fetch_next_job(["contract"]) is None
        assert repository.delete_job(job_id) is False

    def test_no_two_callers_get_one_job(self, repository: JobRepository) -> None:
        if not self.is_shared_by_threads:
            return
        added = {repository.add_job(_job()) for _ in range(40)}
        fetched: list[str] = []
        failures: list[Exception] = []
        gate = threading.Barrier(4)

        def fetch() -> None:
            gate.wait()
            try:
                while (job := repository.fetch_next_job(["contract"])) is not None:
                    fetched.append(job.job_id)
            except Exception as error:  # noqa: BLE001 - shown by the assertion below
                failures.append(error)

        threads = [threading.Thread(target=fetch) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures, failures
        assert sorted(fetched) == sorted(added)


def _job(*, task_type: str = "contract", params: dict[str, Any] | None = None) -> Job:
    return Job(job_id=str(uuid.uuid4()), task_type=task_type, params=params or {})


def _get(repository: JobRepository, job_id: str) -> Job:
    job = repository.get_job(job_id)
    assert job is not None, f"job {job_id} is not found"
    return job
