"""One step of recovery: leases that ended, messages that were lost, jobs that are due.

A plain function. Keepers call it on a timer, `celery ml recover` and tests call it directly, and any number
may at once: each transition is decided in the store, and says what has to be sent.
"""

import logging
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from cl_ml_tools.common.job_leases import Dispatch
from cl_ml_tools.common.job_recovery import JobRecovery, Recovered

logger = logging.getLogger(__name__)

MAX_CHUNKS = 100
"""How often an act is repeated within one step when there is more to do."""


def recover(
    jobs: JobRecovery,
    send: Callable[[Dispatch], bool],
    clean_up: Callable[[str], object] | None = None,
    *,
    during: AbstractContextManager[None] | None = None,
) -> Counter[str]:
    """Do what has to be done for jobs that nobody looks after, and count it.

    Args:
        jobs: the store.
        send: sends a message. When it could not, this step sends no more for that task type: each try may
            wait for a broker that hangs. A later step finds what was not sent, without backing off.
        clean_up: removes a job's files, for records that are gone now; without it they are left to the sweep.
        during: entered around each single call that may block.

    Returns:
        How often each act was done: ``queued`` (a lease had ended, or its time has come), ``resent`` (a
        message was lost), ``error``, ``cancelled``, ``expired``, ``deleted``, ``retired``.

    Raises:
        StoreUnavailableError: the store does not answer; the next step goes on from there.
    """
    done: Counter[str] = Counter()
    during = during or nullcontext()
    unsent: list[Dispatch] = []
    send = _sparing_failed_queues(send, unsent)
    # The one first that a server which is full lets do: it makes room for the others.
    for act in (jobs.retire, jobs.recover_leases, jobs.recover_due, jobs.recover_messages):
        for _ in range(MAX_CHUNKS):
            with during:
                recovered = act()
            _carry_out(recovered, send, clean_up, during)
            done.update(word for word, _ in recovered.acts)
            if recovered.is_whole:
                break
    if unsent:
        with during:
            jobs.watch_anew(unsent)
    return done


def _sparing_failed_queues(
    send: Callable[[Dispatch], bool], unsent: list[Dispatch]
) -> Callable[[Dispatch], bool]:
    failed: set[str] = set()

    def send_while_it_works(dispatch: Dispatch) -> bool:
        if dispatch.task_type not in failed and send(dispatch):
            return True
        failed.add(dispatch.task_type)
        unsent.append(dispatch)
        return False

    return send_while_it_works


def _carry_out(
    recovered: Recovered,
    send: Callable[[Dispatch], bool],
    clean_up: Callable[[str], object] | None,
    during: AbstractContextManager[None],
) -> None:
    for word, job_id in recovered.acts:
        logger.warning("recovery: job %s: %s", job_id, word)
    for dispatch in recovered.dispatches:
        with during:
            send(dispatch)
    if clean_up is None:
        return
    for word, job_id in recovered.acts:
        if word in ("deleted", "retired"):
            try:
                with during:
                    clean_up(job_id)
            except OSError:
                logger.exception("job %s: its files could not be removed; the sweep takes them later", job_id)
