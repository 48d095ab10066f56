"""What recovery needs of a store: bounded, atomic acts that any number of callers may do at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from cl_ml_tools.common.job_leases import Dispatch


@dataclass(frozen=True, slots=True)
class Recovered:
    """What one act did.

    Attributes:
        acts: a word and a job id for each thing that was done: ``queued``, ``resent``, ``error``,
            ``cancelled``, ``expired``, ``deleted`` or ``retired``.
        dispatches: the messages that have to be sent now.
        is_whole: whether nothing is left to do; else call again.
    """

    acts: Sequence[tuple[str, str]] = ()
    dispatches: Sequence[Dispatch] = ()
    is_whole: bool = True


class JobRecovery(Protocol):
    """Finds jobs that nobody looks after any more."""

    def recover_leases(self) -> Recovered:
        """Take back jobs whose leases have ended; at the limit, or when a cancel waits, end them.

        After a time in which nobody could extend a lease, all get one lease of grace first.
        """
        ...

    def recover_messages(self) -> Recovered:
        """Find queued jobs whose messages were lost."""
        ...

    def watch_anew(self, unsent: Sequence[Dispatch]) -> None:
        """Look for these messages as if for the first time: they could not be sent, so nobody has lost them."""
        ...

    def recover_due(self) -> Recovered:
        """Find jobs whose next try or earliest start has come; end those that have expired."""
        ...

    def retire(self) -> Recovered:
        """Remove the records of jobs that ended longer ago than they are kept."""
        ...
