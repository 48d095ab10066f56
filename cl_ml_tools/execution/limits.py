"""How long a run may take, and whether a failed one is worth another try."""

import random
import sys
from dataclasses import dataclass

from cl_ml_tools.common.compute_module import ComputeModule
from cl_ml_tools.common.schemas import Job
from cl_ml_tools.errors import BadInputError
from cl_ml_tools.execution.failures import leaves_of
from cl_ml_tools.settings import Settings


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """The limits of one run, in seconds.

    Attributes:
        soft: when it is told to clean up, or None.
        hard: when it is ended.
        soft_errors: what is raised in the plugin at the soft limit by whoever watches it. Empty: the run
            watches its own limits, which reaches only what awaits or reports progress.
    """

    soft: float | None
    hard: float
    soft_errors: tuple[type[BaseException], ...] = ()

    @property
    def are_watched_elsewhere(self) -> bool:
        """Whether somebody outside the process keeps the limits."""
        return bool(self.soft_errors)


def limits_of(module: ComputeModule, settings: Settings) -> TimeLimits:
    """The plugin's limits, or those of the settings where it has none."""
    soft = module.soft_time_limit
    hard = module.time_limit
    return TimeLimits(
        settings.soft_time_limit_seconds if soft is None else soft,
        settings.time_limit_seconds if hard is None else hard,
    )


@dataclass(frozen=True, slots=True)
class RetryLater:
    """A failed try that is worth another one.

    Attributes:
        detail: why it failed.
        delay_seconds: how long the next try waits.
        max_retries: how many tries may follow the first one.
    """

    detail: str
    delay_seconds: float
    max_retries: int


def retry_for(module: ComputeModule, job: Job, error: BaseException, detail: str) -> RetryLater | None:
    """The next try that ``error`` is worth, or None when it is final.

    A group is worth one when all exceptions in it are.
    """
    worthy, final = tuple(module.autoretry_for), (*module.dont_autoretry_for, BadInputError)
    leaves = list(leaves_of(error))
    if not (isinstance(error, worthy) or all(isinstance(leaf, worthy) for leaf in leaves)):
        return None
    if any(isinstance(each, final) for each in (error, *leaves)):
        return None
    failures = int(getattr(job, "failures", 0))
    delay = module.default_retry_delay
    if module.retry_backoff:
        # https://docs.celeryq.dev/en/stable/userguide/tasks.html#Task.retry_backoff
        delay = min(
            module.retry_backoff_max, max(1.0, float(module.retry_backoff)) * 2.0 ** min(failures, 64)
        )
        if module.retry_jitter:
            delay = random.uniform(0, delay)  # noqa: S311 - spreads load, protects nothing
    return RetryLater(detail, delay, sys.maxsize if module.max_retries is None else module.max_retries)
