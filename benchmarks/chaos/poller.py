"""A node that polls: `cl_ml_tools.worker.Worker` in a loop, for the task types that are named."""

import asyncio
import logging
import sys

from kombu.exceptions import OperationalError

from cl_ml_tools.app import create_repository
from cl_ml_tools.errors import StoreUnavailableError
from cl_ml_tools.worker import Worker

logger = logging.getLogger("poller")


async def main(task_types: list[str]) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    worker = Worker(create_repository())
    print("ready.", flush=True)
    while True:
        try:
            worked = await worker.run_once(task_types)
        except (StoreUnavailableError, OperationalError) as error:
            logger.warning("polling again in a moment: %s", error)
            worked = False
        if not worked:
            await asyncio.sleep(0.1)


asyncio.run(main(sys.argv[1:]))
