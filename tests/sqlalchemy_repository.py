"""A stranger's repository: SQLAlchemy 2, and rows that are locked while they are claimed.

``python -m sqlalchemy_repository <database url>`` is a worker on it, which ends when no job is queued.
"""

import asyncio
import sys
from datetime import datetime
from typing import Any

from sqlalchemy import JSON, DateTime, Engine, String, create_engine, delete, event, func, select, update
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

from cl_ml_tools import Job
from cl_ml_tools.worker import Worker


class Base(DeclarativeBase):
    pass


class JobModel(Base):
    __tablename__ = "jobs"

    job_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    task_type: Mapped[str] = mapped_column(String(64))
    params: Mapped[dict[str, Any]] = mapped_column(JSON)
    status: Mapped[str] = mapped_column(String(16), default="queued", index=True)
    progress: Mapped[int] = mapped_column(default=0)
    task_output: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    error_message: Mapped[str | None]
    created_by: Mapped[str | None]
    priority: Mapped[int] = mapped_column(default=5)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())


class SQLAlchemyJobRepository:
    """Jobs in a table; on SQLite, which locks no rows, every transaction takes the database's write lock."""

    def __init__(self, url: str) -> None:
        self.engine = create_engine(url)
        if self.engine.dialect.name == "sqlite":
            _begin_immediate(self.engine)
        self.sessions = sessionmaker(self.engine)
        Base.metadata.create_all(self.engine)

    def add_job(self, job: Job, created_by: str | None = None, priority: int | None = None) -> str:
        with self.sessions.begin() as session:
            session.add(JobModel(**job.model_dump(), created_by=created_by, priority=priority))
        return job.job_id

    def get_job(self, job_id: str) -> Job | None:
        with self.sessions() as session:
            row = session.get(JobModel, job_id)
            return Job.model_validate(row) if row is not None else None

    def update_job(self, job_id: str, **fields: Any) -> bool:
        with self.sessions.begin() as session:
            change = (
                update(JobModel).where(JobModel.job_id == job_id).values(**fields).returning(JobModel.job_id)
            )
            return session.scalar(change) is not None

    def fetch_next_job(self, task_types: list[str]) -> Job | None:
        with self.sessions.begin() as session:
            row = session.scalar(
                select(JobModel)
                .where(JobModel.status == "queued", JobModel.task_type.in_(task_types))
                .order_by(JobModel.priority.desc(), JobModel.created_at)
                .limit(1)
                .with_for_update(skip_locked=True)
            )
            if row is None:
                return None
            row.status = "processing"
            return Job.model_validate(row)

    def delete_job(self, job_id: str) -> bool:
        with self.sessions.begin() as session:
            gone = delete(JobModel).where(JobModel.job_id == job_id).returning(JobModel.job_id)
            return session.scalar(gone) is not None


def _begin_immediate(engine: Engine) -> None:
    # Python's driver would begin by itself, too late and without the lock.
    @event.listens_for(engine, "connect")
    def keep_the_driver_from_beginning(connection: Any, _: Any) -> None:
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


async def main(url: str) -> None:
    worker = Worker(SQLAlchemyJobRepository(url))
    while await worker.run_once():
        pass


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
