"""What a chaos run has broken: the journals, the record, its events, the files and the traces, side by side."""

import json
import statistics
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.chaos.faults import FaultLog
from benchmarks.chaos.site.chaos_plugins import content_of
from cl_ml_tools.common.schemas import JobRecord

TERMINAL = ("completed", "error", "cancelled")


@dataclass
class Journal:
    """What masters were answered: kinds of jobs, who accepted what, and the acts on each job."""

    kinds: dict[str, str] = field(default_factory=dict)
    accepted: set[str] = field(default_factory=set)
    acts: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    @classmethod
    def read(cls, folder: Path) -> "Journal":
        journal = cls()
        for path in folder.iterdir():
            for line in path.read_text().splitlines():
                word, job_id, *rest = json.loads(line)
                if word == "I":
                    journal.kinds[job_id] = rest[0]
                elif word == "A":
                    journal.accepted.add(job_id)
                elif word == "D":
                    journal.acts[job_id]["D"] += bool(rest[0])
                else:
                    journal.acts[job_id][word] += 1
        return journal


@dataclass(frozen=True)
class Run:
    """One run as its trace shows it."""

    attempt: int
    pid: int
    node: str
    first: float
    last: float
    done: bool


def read_runs(path: Path) -> list[Run]:
    """The runs of a job by their beginning."""
    times: dict[tuple[int, int, str], list[tuple[float, str]]] = defaultdict(list)
    if not path.exists():
        return []
    for line in path.read_text().splitlines():
        attempt, pid, node, at, word = line.split()
        times[int(attempt), int(pid), node].append((float(at), word))
    runs = [
        Run(*key, first=lines[0][0], last=lines[-1][0], done=lines[-1][1] == "done")
        for key, lines in times.items()
    ]
    return sorted(runs, key=lambda run: run.first)


@dataclass
class Findings:
    """What is counted, and what is wrong, with the job and the reason."""

    counts: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    overlapped: list[str] = field(default_factory=list)
    recovery_seconds: list[float] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "")

    @property
    def is_clean(self) -> bool:
        return not (self.lost or self.wrong or self.stuck or self.overlapped)

    @property
    def recovery_median(self) -> float:
        return statistics.median(self.recovery_seconds) if self.recovery_seconds else 0.0


def audit(
    folder: Path, records: dict[str, JobRecord], states: dict[str, list[str]], faults: FaultLog
) -> Findings:
    """Compare all that is known of each job.

    Args:
        folder: the run's.
        records: the record of each job that has one.
        states: what the events say of each job, in order; ``deleted`` for a deletion.
        faults: what was done, to tell what follows from it.
    """
    journal = Journal.read(folder / "journals")
    found = Findings()
    found.counts["accepted"] = len(journal.accepted)
    for job_id in sorted(journal.accepted | records.keys()):
        acts, kind = journal.acts[job_id], journal.kinds.get(job_id, "?")
        record = records.get(job_id)
        if record is None:
            if acts["d"]:
                found.counts["deleted"] += 1
            else:
                found.lost.append(f"{job_id} ({kind}): accepted, and there is no record")
        elif acts["D"]:
            found.wrong.append(f"{job_id} ({kind}): deleted, and still there as {record.status}")
        elif record.status not in TERMINAL:
            found.stuck.append(f"{job_id} ({kind}): {record!r}")
        else:
            runs = read_runs(folder / "traces" / job_id)
            out = bool(runs) and faults.was_out(runs[-1].first, runs[-1].last)
            _judge_end(found, kind, acts, record, was_out=out)
        _judge_states(found, job_id, acts, states.get(job_id, []))
    for path in (folder / "traces").iterdir():
        _judge_runs(found, path.name, read_runs(path), records.get(path.name), faults)
    _judge_files(found, folder / "media" / "jobs", records, journal)
    return found


def _judge_end(found: Findings, kind: str, acts: Counter[str], record: JobRecord, *, was_out: bool) -> None:
    message = record.error_message or ""
    found.counts["attempts"] += record.attempt
    if record.status == "completed":
        found.counts["completed"] += 1
        if kind == "slow" and was_out:
            found.counts["limits_noticed_late"] += 1
        elif kind in ("fails", "poison", "slow"):
            found.wrong.append(f"{record.job_id} ({kind}): completed")
        for path in record.params["output_paths"]:
            if not Path(path).exists():
                found.wrong.append(f"{record.job_id} ({kind}): completed without {path}")
    elif record.status == "cancelled":
        found.counts["cancelled"] += 1
        if not acts["c"] and not (kind == "expires" and message == "expired before it ran"):
            found.wrong.append(f"{record.job_id} ({kind}): cancelled by nobody: {message}")
    elif (
        (kind == "fails" and "fails by design" in message)
        or (kind == "slow" and "time limit" in message)
        or (kind == "poison" and record.crashes == 3)
    ):
        found.counts["failed_by_design"] += 1
    elif (record.crashes == 3 and "died 3 times" in message) or record.leases_lost == 10:
        found.counts["ended_by_limits"] += 1
    else:
        found.wrong.append(f"{record.job_id} ({kind}): error: {message}")
    if record.crashes > 3:
        found.wrong.append(f"{record.job_id} ({kind}): {record.crashes} crashes")


def _judge_states(found: Findings, job_id: str, acts: Counter[str], states: list[str]) -> None:
    """A terminal state changes only by a retry that somebody asked for, ``completed`` never."""
    retried = 0
    for before, after in pairwise(states):
        if before == "deleted":
            found.wrong.append(f"{job_id}: {after} after its deletion")
        elif before in TERMINAL and after != "deleted":
            retried += 1
            if after != "queued" or before == "completed" or retried > acts["r"]:
                found.wrong.append(f"{job_id}: {before} became {after} ({retried} of {acts['r']} retries)")


def _judge_runs(
    found: Findings, job_id: str, runs: list[Run], record: JobRecord | None, faults: FaultLog
) -> None:
    """Two runs at once are a fault of ours, unless the first had lost its lease because its node stood still.

    A run is alive from its first line to its last one. It keeps its claim as long as its node (or, under
    prefork, either of the node's main process and the run's own process) can say so: neither a Redis that is
    away nor lost connections are an excuse. Only a run whose process and main process stood still together for
    longer than half a lease, at some time between the first run's beginning and the second one's, loses its
    claim rightly, and goes on until it hears of that.
    """
    found.counts["runs"] += len(runs)
    if len({run.attempt for run in runs}) < len(runs):
        found.overlapped.append(f"{job_id}: one attempt was run twice: {runs}")
    for first, second in pairwise(runs):
        killed = faults.killed.get((first.node, first.pid))
        if killed is not None and first.last <= killed < second.first and killed - first.last < 0.5:
            seconds = second.first - killed
            found.recovery_seconds.append(seconds)
            found.slowest = max(found.slowest, (seconds, f"{job_id}: {first}, then {second}"))
        if first.last > second.first and not faults.was_frozen(
            first.node, first.pid, first.first - 1, second.first
        ):
            ends = [] if record is None else [f"{end.cause} {end.node} {end.at}" for end in record.history]
            found.overlapped.append(f"{job_id}: {first} goes on beside {second}; ends: {ends}")


def _judge_files(found: Findings, jobs: Path, records: dict[str, JobRecord], journal: Journal) -> None:
    """Every file is complete and right, and belongs to a record; nothing of an attempt is left."""
    for directory in jobs.iterdir():
        if directory.name not in records:
            found.wrong.append(f"{directory.name}: files without a record")
            continue
        for path in directory.rglob("*"):
            if path.is_dir():
                if path.name.startswith("."):
                    found.wrong.append(f"{directory.name}: {path.name} is left")
            elif path.read_bytes() != content_of(directory.name, int(path.stem)):
                found.wrong.append(f"{directory.name}: {path.name} is not what it should be")


def as_json(found: Findings, faults: FaultLog) -> dict[str, Any]:
    """The keys that a script may rely on, and those of interest."""
    counts = found.counts
    restarts = faults.counts["restart_redis"] + faults.counts["restart_rabbitmq"]
    return {
        "accepted": counts["accepted"],
        "completed": counts["completed"],
        "failed_by_design": counts["failed_by_design"],
        "cancelled": counts["cancelled"],
        "deleted": counts["deleted"],
        "ended_by_limits": counts["ended_by_limits"],
        "limits_noticed_late": counts["limits_noticed_late"],
        "runs": counts["runs"],
        "lost": len(found.lost),
        "wrong": len(found.wrong),
        "stuck": len(found.stuck),
        "overlapped": len(found.overlapped),
        "kills": faults.kills,
        "restarts": restarts,
        "redis_restarts": faults.counts["restart_redis"],
        "recoveries": len(found.recovery_seconds),
        "recovery_median_s": round(found.recovery_median, 2),
        "recovery_max_s": round(max(found.recovery_seconds, default=0.0), 2),
    }
