"""The team's API: ``uvicorn api:app``."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from auth import User, current_user
from fastapi import Depends, FastAPI
from shop import REDIS_URL, repository, storage, thank

from cl_ml_tools.job_routes import create_job_router
from cl_ml_tools.master import create_master_router
from cl_ml_tools.stores.redis_watcher import RedisJobWatcher

watcher = RedisJobWatcher(REDIS_URL, prefix="shop")


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    yield
    await watcher.close()
    repository.close()


app = FastAPI(title="Shop", lifespan=lifespan)


@app.post("/thanks", status_code=202)
def send_thanks(user: Annotated[User, Depends(current_user)]) -> None:
    thank.delay(user.id)


app.include_router(create_master_router(repository, storage, current_user), prefix="/api")
app.include_router(
    create_job_router(repository, current_user, watcher=watcher, file_storage=storage), prefix="/api"
)
