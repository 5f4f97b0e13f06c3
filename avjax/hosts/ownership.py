"""Who may write into a workdir: one job at a time, whose host 0 holds the lock for all of its
hosts."""

import contextlib
from collections.abc import Iterator
from typing import Any

from avjax.hosts import distributed
from avjax.storage import lock, paths


@contextlib.contextmanager
def sole_writer(workdir: Any) -> Iterator[None]:
    """Holds the workdir's lock while inside; taken again inside of itself, it changes nothing. Call
    before anything there is cleaned up or written.

    Raises:
      UserError: on all hosts, another job writes there. It exits with 2, so that no launcher starts
        it again for that.
      Restart: the run that this one follows (it was told to stop, or SLURM requeued its job) does
        not come to its end.
    """
    with contextlib.ExitStack() as held:

        def take() -> bool:
            folder = paths.folder(workdir)
            try:
                held.enter_context(
                    lock.hold(
                        folder / lock.NAME,
                        "the workdir",
                        folder,
                        lost=_leave,
                        hint="wait for it or end it, or use another --workdir",
                    )
                )
            except lock.Busy as error:
                if error.predecessor:
                    raise distributed.Restart(str(error)) from error
                raise
            return True

        distributed.on_main(f"the lock of {workdir}", take)
        yield


def _leave(why: str) -> None:
    distributed.say(f"error: {why}")
    distributed.end(distributed.USER, why)
    distributed.exit_now(distributed.USER)
