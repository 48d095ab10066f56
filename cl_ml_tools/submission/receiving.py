"""Uploads that go to the storage while they arrive.

FastAPI reads the whole body before anything else of a route runs, and spools files. On an `UploadRoute` it is given
an empty form instead; a dependency, which runs when the user is known, reads the body, saves the files and fills the
form, and then FastAPI takes the fields from it as ever.
"""

from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Annotated, Any
from uuid import uuid4

from fastapi import Depends, Request, Response
from starlette.datastructures import FormData, UploadFile

from cl_ml_tools.common.file_storage import FileStorage, limits_of_uploads
from cl_ml_tools.common.job_repository import JobRepository
from cl_ml_tools.common.schemas import BaseJobParams
from cl_ml_tools.submission.accepting import discard
from cl_ml_tools.submission.earlier_jobs import EarlierJobs
from cl_ml_tools.submission.quota import check_quota
from cl_ml_tools.submission.reception import Received, Reception
from cl_ml_tools.submission.viewing import viewer_in
from cl_ml_tools.web.errors import ProblemRoute


class _LateForm(FormData):
    def fill(self, items: Sequence[tuple[str, UploadFile | str | None]]) -> None:
        super().__init__(items)  # type: ignore[arg-type]  # None is refused by the field that has it


class UploadRoute(ProblemRoute):
    """A route whose body is left to the dependency that `receiver` makes."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap FastAPI's handler of the route."""
        handle = super().get_route_handler()

        async def handle_unread(request: Request) -> Response:
            # A private name of Starlette: what `request.form()` returns once it has parsed. Guarded by a test.
            request._form = _LateForm()
            return await handle(request)

        return handle_unread


def receiver(
    schema: type[BaseJobParams],
    repository: JobRepository,
    file_storage: FileStorage,
    get_current_user: Callable[..., Any],
) -> Callable[..., AsyncIterator[Received]]:
    """Make the dependency that receives an upload; what it saved is removed unless it is handed over."""
    limits = limits_of_uploads(file_storage)

    async def receive(
        request: Request, user: Annotated[Any, Depends(get_current_user)]
    ) -> AsyncIterator[Received]:
        viewer = viewer_in(request, user)
        received = Received(str(uuid4()), viewer.creator)
        # Asked again when the job is added, see `quota_kept`; here so that nobody sends a file for nothing.
        await check_quota(repository, received.creator, limits)
        earlier = EarlierJobs(repository, file_storage, viewer)
        try:
            reception = Reception(request, schema, file_storage, limits, earlier, received)
            await reception.read()
            form = request._form
            assert isinstance(form, _LateForm)  # noqa: S101 - the route's class has put it there
            form.fill(reception.items)
            yield received
        finally:
            if received.has_files and not received.is_handed_over:
                await discard(file_storage, received.job_id)

    return receive
