"""One job at a time writes to a workdir; its host 0 holds the lock for all of its hosts."""

import contextlib
from collections.abc import Iterator
from typing import Any

from avjax.hosts import distributed
from avjax.storage import lock, paths


@contextlib.contextmanager
def sole_writer(workdir: Any) -> Iterator[None]:
    """Holds the workdir's lock while inside; may be nested. Call before anything there is cleaned
    up or written.

    Raises:
      UserError: on all hosts, where another job writes there: exit code 2, so that no launcher
        starts it again.
      Restart: the run that this one follows (it is stopping, or SLURM requeued its job) does not
        end.
    """
    with contextlib.ExitStack() as held:

        def take() -> bool:
            folder = paths.folder(workdir)
            try:
                held.enter_context(lock.hold(
                    folder / lock.NAME, "the workdir", folder, on_lost=_end_job,
                    hint="wait for it or end it, or use another --workdir"))
            except lock.Busy as error:
                if error.predecessor:
                    raise distributed.Restart(str(error)) from error
                raise
            return True

        distributed.on_main(f"the lock of {workdir}", take)
        yield


def _end_job(why: str) -> None:
    distributed.log(f"error: {why}")
    distributed.end_job(distributed.USER, why)
    distributed.exit_now(distributed.USER)
