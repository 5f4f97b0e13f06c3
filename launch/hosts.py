"""Runs a launcher's body as one of the processes of a job: flags, exit codes, and a common end.

    with hosts.session():
        ...

Exit codes: 0 done, 2 an error that the user can correct, 75 restartable (a signal, a lost host, a
hang, a storage failure), 1 a defect. What ends one process early ends all, and each logs why.
"""

import contextlib
import sys
import traceback
from collections.abc import Iterator

from absl import flags

from avjax.errors import RESTARTABLE
from avjax.storage import failures

# For host 0 to write checksums and send its records, once the state is saved.
STOP_SECONDS = 120.0


def define_flags() -> None:
    """--coordinator, --processes, --process_id, for several processes that the environment does not
    describe."""
    flags.DEFINE_string("coordinator", None, "machine:port of process 0; default "
                                             "$JAX_COORDINATOR_ADDRESS or the cluster's.")
    flags.DEFINE_integer("processes", None, "How many processes; default $JAX_NUM_PROCESSES or the "
                                            "cluster's.", lower_bound=1)
    flags.DEFINE_integer("process_id", None, "Which one this is; default $JAX_PROCESS_ID or the "
                                             "cluster's.", lower_bound=0)


@contextlib.contextmanager
def session(heartbeat_seconds: float = 100.0) -> Iterator[None]:
    """Joins the job's other processes, if any, before a device is touched; handles signals while
    inside.

    In a job of one process exceptions pass, and a Restart's message is printed. In a job of several
    any exception ends all of them, with one code.
    """
    from jax.errors import JaxRuntimeError

    from avjax.hosts import distributed, preemption

    values = flags.FLAGS.flag_values_dict()
    where = {name: values.get(name) for name in ("coordinator", "processes", "process_id")}
    try:
        with preemption.handle_signals():
            if distributed.initialize(where["coordinator"] or "", where["processes"],
                                      where["process_id"], heartbeat_seconds=heartbeat_seconds):
                distributed.peers().on_stop = preemption.on_stop
            try:
                distributed.agree(distributed.versions(), "versions")
                yield
            except JaxRuntimeError as error:
                distributed.raise_if_host_lost(error)
                raise
            except preemption.Preempted:
                # the first to leave takes the others with it
                with contextlib.suppress(distributed.Restart):
                    distributed.barrier("all have stopped", STOP_SECONDS)
                raise
            distributed.shutdown()
    except preemption.Preempted as error:  # logged by the loop, and known to all hosts
        distributed.end_job(error.code, "")
        raise
    except distributed.Restart as error:
        distributed.log(f"restartable: {error.message}")
        distributed.end_job(error.code, error.message)
        distributed.exit_now(error.code)
    except BaseException as error:
        code, line = failures.exit_line(error) or (1, f"{type(error).__name__}: {error}")
        if distributed.process_count() > 1:
            if code == 1:
                traceback.print_exc()
            else:
                print(f"{'restartable' if code == RESTARTABLE else 'error'}: {line}",
                      file=sys.stderr, flush=True)
        distributed.end_job(code, line)
        raise
