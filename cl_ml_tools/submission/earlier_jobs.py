"""Outputs of an earlier job as the inputs of the next one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from cl_ml_tools.common.file_storage import FileStorage, ReusesOutputs
from cl_ml_tools.common.job_repository import JobRepository
from cl_ml_tools.common.schemas import Job, JobStatus
from cl_ml_tools.errors import InvalidJobIdError, JobStateError, UnknownJobError
from cl_ml_tools.file_names import check_job_id, distinct_name, safe_file_name
from cl_ml_tools.output_files import OutputFile, list_outputs
from cl_ml_tools.submission.asking import ask
from cl_ml_tools.submission.upload_form import FROM_JOB, FROM_OUTPUT
from cl_ml_tools.submission.viewing import Viewer

Saved = tuple[str, Mapping[str, object]]
"""The name that an input was to be saved under, and what the storage said of it."""


@dataclass(frozen=True, slots=True)
class EarlierJobs:
    """Finds what a form asks for with ``from_job`` and ``from_output``, and makes it inputs.

    Attributes:
        repository: knows the jobs.
        file_storage: has their files.
        viewer: who asks.
    """

    repository: JobRepository
    file_storage: FileStorage
    viewer: Viewer

    async def find(self, fields: Sequence[tuple[str, object]]) -> Job | None:
        """The job that the form names so far; None when it names none.

        Raises:
            RequestValidationError: what it says is no job's id.
            UnknownJobError: there is no such job for who asks.
            JobStateError: the job is not completed.
        """
        sent = [value for name, value in fields if name == FROM_JOB and value != ""]
        if not sent:
            return None
        if len(sent) > 1:
            raise _refused("One job can be named here; more were.", sent, FROM_JOB)
        try:
            job_id = check_job_id(str(sent[0]))
        except InvalidJobIdError as error:
            raise _refused(str(error), sent[0], FROM_JOB) from error
        job = await ask(self.repository, lambda: self.repository.get_job(job_id))
        if job is None or not self.viewer.may_see(job):
            raise UnknownJobError(f"There is no job {job_id!r}.")
        if self.viewer.creator is not None and not self.viewer.is_admin and not hasattr(job, "created_by"):
            # Anybody's files would be anybody's to take.
            raise _refused(
                "This service does not know whose a job is, so no job can use another's outputs.",
                job_id,
                FROM_JOB,
            )
        if job.status != JobStatus.COMPLETED:
            raise JobStateError(
                f"Job {job_id!r} is {job.status}: its outputs can be used once it is completed."
            )
        return job

    async def reuse(
        self, job: Job, fields: Sequence[tuple[str, object]], *, job_id: str, most: int, taken: Sequence[str]
    ) -> list[Saved]:
        """Make the outputs that the form asks for inputs of ``job_id``: all of them, or those that it names.

        They come in the order in which they are named; else in that of the job's ``output_paths``, and what it has
        made beside these behind them.

        Args:
            job: from `find`.
            fields: the form.
            job_id: whose inputs they become.
            most: how many inputs a job may have.
            taken: the names of the inputs that are there already.

        Raises:
            RequestValidationError: the job has no outputs, not these, or too many.
            UnknownJobError: it is being removed.
        """
        folder = self.file_storage.get_output_path(job.job_id)
        outputs = _in_order(job, await run_in_threadpool(list_outputs, folder))
        names = [value for name, value in fields if name == FROM_OUTPUT and value != ""]
        if names:
            by_name = {output.name: output for output in outputs}
            for place, name in enumerate(names):
                if name not in by_name:
                    raise _refused(f"Job {job.job_id!r} has no such output.", name, FROM_OUTPUT, place)
            outputs = [by_name[str(name)] for name in names]
        if not outputs:
            raise _refused(f"Job {job.job_id!r} has no outputs.", job.job_id, FROM_JOB)
        if len(outputs) + len(taken) > most:
            message = f"One job takes at most {most} files; these would be {len(outputs) + len(taken)}."
            raise _refused(message, job.job_id, FROM_OUTPUT if names else FROM_JOB)
        inputs: list[Saved] = []
        occupied = list(taken)
        try:
            for output in outputs:
                name = distinct_name(safe_file_name(output.name), occupied)
                occupied.append(name)
                saved = await self._reuse_one(job_id, job.job_id, output, name)
                # A completed job's outputs stay what they are, so this tells one from another as a hash does.
                inputs.append((name, {**saved, "hash": f"{job.job_id}/{output.name}"}))
        except FileNotFoundError as error:
            raise UnknownJobError(f"Job {job.job_id!r} is being removed.") from error
        return inputs

    async def _reuse_one(
        self, job_id: str, source_job_id: str, output: OutputFile, name: str
    ) -> Mapping[str, object]:
        storage = self.file_storage
        if isinstance(storage, ReusesOutputs):
            return await run_in_threadpool(storage.reuse_output, job_id, source_job_id, output.name)
        with await run_in_threadpool(output.path.open, "rb") as source:
            upload = UploadFile(source, size=output.size, filename=name)
            return await storage.save_input_file(job_id, name, upload)


def check_no_output_without_job(fields: Sequence[tuple[str, object]]) -> None:
    """Refuse a form that names outputs and no job.

    Raises:
        RequestValidationError: it does.
    """
    for name, value in fields:
        if name == FROM_OUTPUT and value != "":
            raise _refused(f"It is not said in {FROM_JOB} whose output this is.", value, FROM_OUTPUT)


def _in_order(job: Job, outputs: list[OutputFile]) -> list[OutputFile]:
    paths = job.params.get("output_paths")
    places = {str(path): place for place, path in enumerate(paths if isinstance(paths, list) else ())}
    return sorted(outputs, key=lambda output: places.get(str(output.path), len(places)))


def _refused(message: str, sent: object, *place: str | int) -> RequestValidationError:
    return RequestValidationError(
        [{"type": "value_error", "loc": ("body", *place), "msg": message, "input": sent}]
    )
