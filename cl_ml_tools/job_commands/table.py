"""Jobs as lines of text, for people."""

from collections.abc import Iterator, Sequence

from cl_ml_tools.common.schemas import JobRecord, JobStatus

_HEAD = ("ID", "TYPE", "STATUS", "PROGRESS", "PRIORITY", "AGE", "ATTEMPT", "NODE OR ERROR")

_UNITS = (("d", 24 * 3600), ("h", 3600), ("m", 60), ("s", 1))


class JobTable:
    """Lines of a table whose pages come one after the other.

    Args:
        now: what ages are counted to, ms since 1970.
    """

    def __init__(self, now: int) -> None:
        self._now = now
        self._widths = [0] * len(_HEAD)
        self._has_head = False

    def lines(self, jobs: Sequence[JobRecord]) -> Iterator[str]:
        """The lines of a page, below the table's head when it is the first one.

        Columns are as wide as the widest value so far.
        """
        rows = [self._row(job) for job in jobs]
        if rows and not self._has_head:
            self._has_head = True
            rows.insert(0, _HEAD)
        for row in rows:
            self._widths = [max(width, len(value)) for width, value in zip(self._widths, row, strict=True)]
        for row in rows:
            padded = (value.ljust(width) for value, width in zip(row, self._widths, strict=True))
            yield "  ".join(padded).rstrip()

    def _row(self, job: JobRecord) -> tuple[str, ...]:
        return (
            job.job_id,
            _printable(job.task_type),
            str(job.status),
            f"{job.progress}%",
            str(job.priority),
            age(self._now - job.created_at),
            str(job.attempt),
            _printable(_remark(job)),
        )


def age(ms: int) -> str:
    """A time that has passed, in the largest unit that it fills."""
    seconds = max(0, ms // 1000)
    for unit, length in _UNITS:
        if seconds >= length:
            return f"{seconds // length}{unit}"
    return "0s"


def _remark(job: JobRecord) -> str:
    if job.status == JobStatus.PROCESSING:
        return f"{job.node or ''}{' (stopping)' if job.cancel_requested else ''}"
    if job.status == JobStatus.ERROR:
        return next(iter((job.error_message or "").strip().splitlines()), "")
    return ""


def _printable(text: str) -> str:
    """Names of files come from strangers: a terminal must not be told anything by them."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
