"""What is started with a worker's main process."""

import logging
import os
import secrets
from typing import Any

from celery import bootsteps
from celery.exceptions import ImproperlyConfigured
from kombu.serialization import prepare_accept_content

from cl_ml_tools.celery_bridge.announcer import Announcer
from cl_ml_tools.celery_bridge.attendant import Attendant
from cl_ml_tools.celery_bridge.handed_down import hand_down
from cl_ml_tools.celery_bridge.installation import NODE_VARIABLE, installations
from cl_ml_tools.celery_bridge.keeper import Keeper
from cl_ml_tools.celery_bridge.queues import PREFIX, queue_name
from cl_ml_tools.celery_bridge.spawned import remember_places
from cl_ml_tools.celery_bridge.spool import OutcomeSpool
from cl_ml_tools.errors import StorageMismatchError, StoreUnavailableError
from cl_ml_tools.storage_tie import check_storage

logger = logging.getLogger(__name__)

_JSON = "application/json"


class JobsStep(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery has no types
    """Gives the worker its node id before its pool starts; starts its keeper and its attendant."""

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self._installation = installations[parent.app]
        ours = self._queues_of_ours(parent)
        pool = parent.pool_cls.__module__.rsplit(".", 1)[-1]
        if pool in ("gevent", "eventlet"):
            if ours:
                raise ImproperlyConfigured(
                    f"cl_ml_tools does not run on the {pool} pool: a plugin's event loop cannot be nested in its "
                    "greenlets, and jobs of a dead worker are not restored. Use --pool prefork, threads or solo."
                )
            # A worker for other tasks of its app: that is none of our business.
            self.enabled = False
            return
        if unknown := ours - set(map(queue_name, self._installation.task_types)):
            raise ImproperlyConfigured(
                f"this node has no plugin for {', '.join(sorted(unknown))}: it would throw the jobs' messages away. "
                f"Installed here: {', '.join(map(queue_name, self._installation.task_types)) or 'none'}."
            )
        accepted = prepare_accept_content(parent.app.conf.accept_content)
        if ours and accepted is not None and _JSON not in accepted:
            # Celery would refuse every message of ours, without end, and not say whose it is.
            raise ImproperlyConfigured(
                'cl_ml_tools sends jobs as JSON: add "json" to accept_content of this worker\'s app, or let the worker '
                "take none of the queues cl_ml_tools.*."
            )
        remember_places(parent.app)
        hand_down(NODE_VARIABLE, f"{parent.hostname}:{os.getpid()}:{secrets.token_hex(4)}")
        self._spool = OutcomeSpool.create()

    def start(self, parent: Any) -> None:
        """Check that the record belongs to this broker, tell if it does not to this storage, then begin.

        Raises:
            StoreMismatchError: it belongs to another broker; the worker does not start.
        """
        installation = self._installation
        try:
            installation.repository.check_broker()
            if self._queues_of_ours(parent):
                # What it only complains of the sweep tells.
                check_storage(installation.storage, installation.store)
        except StoreUnavailableError as error:
            logger.warning("starting although the record cannot be reached: %s", error)
        except StorageMismatchError as error:
            logger.error("starting although jobs whose files are not here will be given back. %s", error)
        installation.attendant = Attendant(installation, self._spool)
        installation.attendant.start()
        Keeper(installation).start()
        Announcer(installation, parent).start()

    def _queues_of_ours(self, parent: Any) -> set[str]:
        return {name for name in parent.app.amqp.queues.consume_from if name.startswith(PREFIX)}

    def stop(self, parent: Any) -> None:
        """Nothing: called at the beginning of a warm shutdown, while jobs still run."""
