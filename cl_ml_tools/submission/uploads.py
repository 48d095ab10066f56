"""One job from uploads that FastAPI has received: for routes that a plugin writes itself."""

from collections.abc import Callable, Sequence
from uuid import uuid4

from fastapi import UploadFile
from starlette.concurrency import run_in_threadpool

from cl_ml_tools.common.file_storage import FileStorage
from cl_ml_tools.common.job_repository import JobRepository
from cl_ml_tools.common.schemas import BaseJobParams
from cl_ml_tools.file_names import distinct_names
from cl_ml_tools.submission.accepting import accept_job, discard


async def submit_uploads(
    repository: JobRepository,
    file_storage: FileStorage,
    files: Sequence[UploadFile],
    *,
    task_type: str,
    params: BaseJobParams,
    output_name: Callable[[str], str],
    created_by: str | None,
    priority: int,
) -> str:
    """Save uploads, add one job for them and return the job's id.

    Inputs and outputs stand in the order of the uploads, and no two have one name. Files are left behind only with a
    job that uses them, or may be using them: when the store did not say whether it took the job, they stay.

    Args:
        repository: takes the job.
        file_storage: takes the uploads.
        files: the uploads, one or more.
        task_type: the task that does the job.
        params: its parameters, already valid; their paths are replaced.
        output_name: an output's name, from the name that its upload was saved under; when more outputs are expected
            than there are inputs, asked for each input again, in rounds. Made safe, and numbered when another output
            has it.
        created_by: whose job it is.
        priority: 0 to 10, higher is more urgent.

    Raises:
        InvalidJobError: the parameters expect more outputs than a job may have.
        Exception: what the storage or the repository raised, as it was.
    """
    job_id = str(uuid4())
    try:
        await run_in_threadpool(file_storage.create_job_directory, job_id)
        names = distinct_names(file.filename for file in files)
        saved = [
            (name, await file_storage.save_input_file(job_id, name, file))
            for name, file in zip(names, files, strict=True)
        ]
    except BaseException:
        # Also when the client is gone and the request is cancelled.
        await discard(file_storage, job_id)
        raise
    return await accept_job(
        repository,
        file_storage,
        saved,
        job_id=job_id,
        task_type=task_type,
        params=params,
        output_name=output_name,
        created_by=created_by,
        priority=priority,
    )
