"""Whether the tests notice faults: ``python -m benchmarks.mutations [name ...]``.

Each deliberate fault is put into a copy of the package, by replacing text of a script or of recovery; the store's
tests, and when they pass the state machine, are run on it, and must fail. Says which test did. A text that is no longer found
is an error, so that the list keeps up with the code.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
SCRIPTS = "cl_ml_tools/stores/scripts"

MACHINE = ["tests/test_state_machine.py", "--hypothesis-profile", "mutation"]
STORE_TESTS = ["tests/test_recovery_acts.py", "tests/test_redis_jobs.py", "tests/test_recovery_sends.py"]


@dataclass(frozen=True)
class Fault:
    """A fault: in which file, what is replaced, by what."""

    name: str
    file: str
    old: str
    new: str = ""


def script(name: str, act: str, old: str, new: str = "") -> Fault:
    return Fault(name, f"{SCRIPTS}/{act}.lua", old, new)


FAULTS = [
    script("finish: the token is ignored", "finish", "if v[2] ~= token then return 'lost' end"),
    script("finish: an end is overwritten", "finish", "if v[1] ~= 'processing' then return 'stored' end"),
    script("finish: a deleted job comes back", "finish", "if v[3] then", "if false then"),
    script("finish: a repeat is not known", "finish", "redis.call('HSET', key_job(id), 'token', token)"),
    script("report: the token is ignored", "report", "v[1] ~= 'processing' or v[2] ~= token", "v[1] ~= 'processing'"),
    script("report: progress goes back", "report", "if tonumber(progress) > tonumber(v[3]) then", "if true then"),
    script("report: a cancel is not told", "report", "v[4] and 'stopping' or 'current'", "'current'"),
    script("beat: no grace after an outage", "_prelude", "if t - beat > lease_ms / 2 then", "if false then"),
    script("beat: it is not kept", "_prelude", "redis.call('HSET', key_meta(), 'beat', whole(t))"),
    script("claim: seen is not raised", "claim", "redis.call('HSET', key_seen(), line, sequence)"),
    script("claim: of a running job", "claim", "  return {'held'}\nend", "end\nif status == 'processing' then status = 'queued' end"),
    script("claim: a repeat is not known", "claim", "if v[2] == token then return answer_record('claimed', id) end"),
    script("claim: too early", "claim", "if due_at and tonumber(due_at) > t then return {'early'} end"),
    script("claim: of an expired job", "claim", "if v[5] and v[6] == '0' and tonumber(v[5]) <= t then", "if false then"),
    script("claim: of a job at its end", "claim", "if status ~= 'queued' then return {'done'} end"),
    script("claim: of a deleted job", "claim", "if v[3] then return {'unknown'} end"),
    script("claim: attempts are not counted", "claim", "redis.call('HINCRBY', key_job(id), 'attempt', 1)"),
    script("claim: without a lease", "claim", "redis.call('ZADD', key_leases(), t + lease_ms, id)"),
    script("claim: crashes have no limit", "claim", "if tonumber(v[4] or 0) >= tonumber(max_crashes) then", "if false then"),
    script("claim: executed too late", "claim", "if t > tonumber(not_after) then return {'late', t} end"),
    script("extend: of another node", "extend", "and v[2] == node "),
    script("extend: the token is ignored", "extend", "and (token == '' or token == v[3])"),
    script("extend: a cancel is not told", "extend", "state = v[4] and 'stopping' or 'current'", "state = 'current'"),
    script("extend: the lease stays", "extend", "redis.call('ZADD', key_leases(), t + lease_ms, id)"),
    script("leases: losses have no limit", "recover_leases", ">= max_leases_lost then", "< 0 then"),
    script("leases: a cancel is forgotten", "recover_leases", "if v[2] then", "if false then"),
    script("leases: a deleted job comes back", "recover_leases", "if v[1] then", "if false then"),
    script("leases: the job enters no line", "recover_leases", "      enter_queue(id)\n"),
    script("leases: taken before their end", "recover_leases", "'-inf', t, 'LIMIT'", "'-inf', t + lease_ms, 'LIMIT'"),
    script("requeue: of another owner", "requeue", "or v[2] ~= node or v[3] ~= process "),
    script("requeue: the token is ignored", "requeue", " or (token ~= '' and v[4] ~= token)"),
    script("requeue: a cancel is forgotten", "requeue", "if v[6] then\n", "if false then\n"),
    script("requeue: a deleted job comes back", "requeue", "if v[5] then", "if false then"),
    script("requeue: one crash too many", "requeue", "  local crashes = redis.call('HINCRBY', key_job(id), 'crashes', 1)\n  if crashes >= tonumber(limit) then\n    return ended", "  local crashes = redis.call('HINCRBY', key_job(id), 'crashes', 1)\n  if crashes > tonumber(limit) then\n    return ended"),
    script("requeue: a release counts as a crash", "requeue", "if cause == 'crashed' then\n", "if cause ~= 'failed' then\n"),
    script("requeue: failures have no limit", "requeue", "> tonumber(limit) then return ended(detail)", "< 0 then return ended(detail)"),
    script("requeue: a repeat is not known", "requeue", "if v[1] == 'queued' and v[7] == requeue_token then", "if false then"),
    script("requeue: no delay", "requeue", "if tonumber(delay_ms) > 0 then", "if false then"),
    script("retry: of a completed job", "retry", "if v[1] ~= 'error' and v[1] ~= 'cancelled' then", "if v[1] == 'queued' or v[1] == 'processing' then"),
    script("retry: limits do not begin anew", "retry", "'crashes', 'leases_lost', 'failures',\n  'expires_at'", "'expires_at'"),
    script("retry: a repeat is not known", "retry", "if v[1] == 'queued' and v[3] == retry_token then", "if false then"),
    script("cancel: a running job ends at once", "cancel", "if v[1] == 'queued' then", "if v[1] == 'queued' or v[1] == 'processing' then"),
    script("cancel: a completed job is cancelled", "cancel", "return v[1] == 'cancelled' and 'cancelled' or 'ended'", "to_end(id, 'cancelled', '', '') return 'cancelled'"),
    script("delete: a running job goes at once", "delete", "if v[1] ~= 'processing' then", "if true then"),
    script("add: executed too late", "add", "if t > tonumber(not_after) then return {'late', 0, t} end"),
    script("add: a repeat is not known", "add", "if v[1] == add_token then return {'added', tonumber(v[2] or 0), t} end"),
    script("add: an id is used twice", "add", "  return {'exists', 0, t}\nend", "end"),
    script("due: before its time", "recover_due", "key_due(), '-inf', t, 'LIMIT'", "key_due(), '-inf', '+inf', 'LIMIT'"),
    script("due: never", "recover_due", "  enter_queue(id)\n"),
    script("due: expired jobs stay", "recover_due", "  to_end(id, 'cancelled', '', 'expired before it ran')\n"),
    script("messages: no patience", "recover_messages", "if t - w.at >= w.patience or (seen ~= w.seen and t - w.at >= patience_ms) then", "if true then"),
    script("messages: what was overtaken is not seen", "recover_messages", "'-inf', w.seen, 'LIMIT'", "'-inf', -1, 'LIMIT'"),
    script("messages: a line that stands still is left", "recover_messages", "lost[#lost + 1] = redis.call('ZRANGE', queued, 0, 0)[1]"),
    script("messages: no backing off", "recover_messages", "math.min(w.patience * 2, max_patience_ms)", "w.patience"),
    script("line: a number is used twice", "_prelude", "redis.call('HINCRBY', key_sequences(), line, 1)", "redis.call('HINCRBY', key_sequences(), line, 0)"),
    script("line: a job stays in it", "_prelude", "redis.call('ZREM', key_queued(line_of(id)), id)"),
    script("queued again: the token lives on", "_prelude", "redis.call('HDEL', key_job(id), 'token', 'node', 'process')"),
    script("queued again: the lease stays", "_prelude", "  local status = redis.call('HGET', key_job(id), 'status')\n  redis.call('ZREM', key_leases(), id)", "  local status = redis.call('HGET', key_job(id), 'status')"),
    script("end: the lease stays", "_prelude", "  redis.call('ZREM', key_leases(), id)\n  local progress", "  local progress"),
    script("end: a cancel stays asked for", "_prelude", "redis.call('HDEL', key_job(id), 'cancel_requested', 'token')", "redis.call('HDEL', key_job(id), 'token')"),
    script("end: no event", "_prelude", "  emit(id, status, progress)\n"),
    Fault("recovery: lost messages are not looked for", "cl_ml_tools/recovery.py", ", jobs.recover_messages"),
    script("beat: leases stay when the clock goes back", "_prelude", "if beat - t > MAX_CLOCK_STEP then", "if false then"),
    script("service: a job waits since it was created", "service", "tonumber(v[1] or v[2])", "tonumber(v[2])"),
    script("announce: lost messages wait on when somebody comes", "announce", "redis.call('HDEL', key_watched(), ARGV[i] .. ':' .. priority)"),
    script("extend: who works does not serve", "extend", "    serves_still(v[5])\n"),
    Fault("recovery: nothing is sent", "cl_ml_tools/recovery.py", "for dispatch in recovered.dispatches:", "for dispatch in ():"),
    Fault("recovery: backs off from a broker that is away", "cl_ml_tools/recovery.py", "jobs.watch_anew(unsent)", "pass"),
    Fault("recovery: a queue that fails is tried for each job", "cl_ml_tools/recovery.py", "failed.add(dispatch.task_type)", "pass"),
    Fault("recovery: only one chunk a step", "cl_ml_tools/recovery.py", "if recovered.is_whole:", "if True:"),
]  # fmt: skip


def main(names: list[str]) -> int:
    faults = [fault for fault in FAULTS if not names or any(name in fault.name for name in names)]
    survivors = []
    with tempfile.TemporaryDirectory(prefix="cl_ml_tools-mutations-") as folder:
        copy = Path(folder)
        for name in ("cl_ml_tools", "tests"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "README.md"):
            shutil.copy(ROOT / name, copy)
        for fault in faults:
            caught = failing(copy, fault, STORE_TESTS) or failing(copy, fault, MACHINE)
            if not caught:
                survivors.append(fault.name)
            print(f"{fault.name:55} {', '.join(caught) or 'NOT CAUGHT'}", flush=True)
    print(f"{len(faults) - len(survivors)} of {len(faults)} faults caught")
    return 1 if survivors else 0


def failing(copy: Path, fault: Fault, tests: list[str]) -> list[str]:
    """The first test that fails with the fault, if any."""
    path = copy / fault.file
    right = path.read_text()
    if right.count(fault.old) != 1:
        raise SystemExit(f"{fault.name}: its text is {right.count(fault.old)} times in {fault.file}")
    path.write_text(right.replace(fault.old, fault.new))
    there = [test for test in tests if not test.endswith(".py") or (copy / test).exists()]
    try:
        ended = subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-n",
                "0",
                "-x",
                "-p",
                "no:cacheprovider",
                "--tb=no",
                "--timeout",
                "800",
                *there,
            ],
            cwd=copy,
            capture_output=True,
            text=True,
            timeout=900,
        )
    finally:
        path.write_text(right)
    failed = re.findall(r"^(?:FAILED|ERROR) \S*::(\S+)", ended.stdout, re.MULTILINE)[:1]
    if ended.returncode not in (0, 1) or bool(failed) != bool(ended.returncode):
        raise SystemExit(f"{fault.name}: {ended.stdout}{ended.stderr}")
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
