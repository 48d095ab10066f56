"""Settings, read once from the environment: ``lease_seconds`` is ``CL_ML_TOOLS_LEASE_SECONDS``."""

import os
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cl_ml_tools.errors import SettingsError

PREFIX = "CL_ML_TOOLS_"


class Settings(BaseModel):
    """All settings. Each field's description says what it does; the README's table is tested against them."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    redis_url: str = Field(
        default="redis://127.0.0.1:6379/0",
        pattern=r"^(redis|rediss|unix)://",
        description="Redis or Valkey (6.2 or newer) that keeps the record of jobs: `redis://`, `rediss://` or `unix://`.",
    )
    broker_url: str | None = Field(
        default=None, description="Celery's broker. The same server as `redis_url` unless set."
    )
    key_prefix: str = Field(
        default="cl_ml_tools",
        pattern=r"^[A-Za-z0-9_.:-]{1,64}$",
        description="First part of every key in Redis. One prefix belongs to one broker.",
    )
    storage_dir: Path = Field(
        default=Path("media"),
        description="Directory of the jobs' files, shared by master and workers.",
    )
    lease_seconds: float = Field(
        default=30.0,
        ge=1.0,
        le=3600.0,
        description="How long a silent worker keeps a job. A living one extends it every third of it.",
    )
    max_crashes: int = Field(
        default=3, ge=1, description="A job whose process died this often ends in `error`."
    )
    max_leases_lost: int = Field(
        default=10, ge=1, description="A job that was lost with its node this often ends in `error`."
    )
    recovery_interval_seconds: float = Field(
        default=10.0,
        gt=0.0,
        description="How often each Celery worker looks for jobs that nobody looks after.",
    )
    lost_message_seconds: float = Field(
        default=60.0,
        gt=0.0,
        description="How long a queued job may be overtaken by later ones before its message counts as lost.",
    )
    retention_days: float = Field(
        default=30.0,
        ge=0.0,
        description="How long jobs and their files are kept after their end; 0 keeps them for ever.",
    )
    time_limit_seconds: float = Field(
        default=21600.0, gt=0.0, description="Longest run of a job whose plugin has no `time_limit`."
    )
    soft_time_limit_seconds: float | None = Field(
        default=None,
        gt=0.0,
        description="When a job whose plugin has no `soft_time_limit` is told to clean up. Unset: never.",
    )
    cancel_grace_seconds: float = Field(
        default=10.0,
        ge=0.0,
        description="How long a cancelled job may take to stop before its pool process is ended (prefork), from "
        "when its node hears of it: within a third of the lease.",
    )
    max_upload_bytes: int = Field(
        default=100_000_000,
        ge=1,
        description="Largest accepted upload, in bytes; above it the answer is 413.",
    )
    max_request_bytes: int = Field(
        default=1_000_000_000,
        ge=1,
        description="Largest accepted request with all its uploads, in bytes; above it the answer is 413.",
    )
    max_files: int = Field(default=100, ge=1, le=1000, description="How many files one job takes.")
    min_free_bytes: int = Field(
        default=100_000_000,
        ge=0,
        description="An upload that would leave less room on the storage's disk is answered with 507.",
    )
    max_unfinished_jobs: int = Field(
        default=0,
        ge=0,
        description="How many jobs a user may have queued or running; above it the answer is 429. 0: any number. "
        "Jobs of nobody are not counted.",
    )
    slow_client_seconds: float = Field(
        default=60.0,
        gt=0.0,
        description="How long a client may take for each 64 kB of a request's body, or for its rest; then it gets 408.",
    )
    api_tokens: str = Field(
        default="",
        pattern=r"^([^\s:,]{1,64}:[0-9a-f]{64}(,|$))*$",
        description="Who may use the HTTP API: `user:SHA-256 of their bearer token`, with commas between. Empty: "
        "everybody, and jobs belong to nobody.",
    )
    admin_users: str = Field(
        default="", description="Users of `api_tokens` who see everybody's jobs, with commas between."
    )
    cors_origins: str = Field(
        default="",
        description="Web pages that may call the API from a browser, as `https://host`, with commas between.",
    )
    max_picture_pixels: int = Field(
        default=50_000_000,
        ge=1,
        le=178_956_970,  # where Pillow itself refuses
        description="Largest picture that is opened or made: pixels of all its frames or pages together. Read from a "
        "worker's environment alone.",
    )
    max_picture_frames: int = Field(
        default=1000,
        ge=1,
        description="Most frames or pages that a picture may have. Read from a worker's environment alone.",
    )
    redis_timeout_seconds: float = Field(
        default=2.0,
        gt=0.0,
        le=30.0,
        description="Longest wait for one answer of Redis, or of the broker. A call is tried twice.",
    )
    progress_interval_seconds: float = Field(
        default=0.2, ge=0.0, description="Shortest time between two writes of one job's progress."
    )

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Self:
        """The settings of the environment (of this process unless given); unset ones have their defaults.

        Raises:
            SettingsError: a value is not usable, or a variable with our prefix names no setting.
        """
        variables = os.environ if environment is None else environment
        given = {
            name.removeprefix(PREFIX).lower(): value
            for name, value in variables.items()
            if name.startswith(PREFIX) and value != ""
        }
        try:
            return cls(**given)  # type: ignore[arg-type]  # pydantic converts the strings
        except ValidationError as error:
            first = error.errors()[0]
            field = str(first["loc"][0])
            variable = f"{PREFIX}{field.upper()}"
            if first["type"] == "extra_forbidden":
                known = ", ".join(sorted(f"{PREFIX}{name.upper()}" for name in cls.model_fields))
                nearest = get_close_matches(field, cls.model_fields, 1)
                meant = f" Is {PREFIX}{nearest[0].upper()} meant?" if nearest else ""
                raise SettingsError(f"{variable} is no setting.{meant} Known: {known}") from None
            # A URL may hold a password, and somebody may have forgotten to hash a token.
            value = "***" if field.endswith(("_url", "_tokens")) else repr(first["input"])
            fault = "it must be user:SHA-256 in hex, with commas between (printf %s TOKEN | sha256sum)"
            raise SettingsError(
                f"{variable} = {value}: {fault if field == 'api_tokens' else first['msg']}"
            ) from None
