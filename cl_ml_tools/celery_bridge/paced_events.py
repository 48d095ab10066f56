"""Sends a worker's task events a few times a second, and not one by one."""

from typing import Any

from celery import bootsteps

PAUSE_SECONDS = 0.05
"""How long task events are gathered. Flower shows them so much later."""


class PacedEventsStep(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery has no types
    """Gathers task events before they are sent.

    Celery sends what it has gathered at each turn of its event loop: that took four tenths of the main process's time
    for short jobs. It sends at once when two dozen wait; so do we.
    """

    requires = ("celery.worker.consumer.events:Events",)

    def start(self, consumer: Any) -> None:
        """Begin; anew after each connection, since it has a dispatcher of its own."""
        dispatcher, hub = consumer.event_dispatcher, consumer.hub
        # Without an event loop Celery sends each event as it comes.
        if dispatcher is None or hub is None:
            return
        is_waiting = False

        def send() -> None:
            nonlocal is_waiting
            is_waiting = False
            dispatcher.flush()

        def gather() -> None:
            nonlocal is_waiting
            if not is_waiting:
                is_waiting = True
                # `call_soon` wakes a loop that sleeps: on a pool of threads this is none of its own.
                hub.call_soon(hub.call_later, PAUSE_SECONDS, send)

        dispatcher.on_send_buffered = gather

    def stop(self, consumer: Any) -> None:
        """Send what waits; what comes later, while the last jobs run, goes as Celery has it."""
        dispatcher = consumer.event_dispatcher
        if dispatcher is not None and consumer.hub is not None:
            dispatcher.on_send_buffered = consumer.on_send_event_buffered
            dispatcher.flush()
