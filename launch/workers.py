"""Which process makes which part of a dataset, of many requests or of an evaluation: flags and
environment. See data_pipelines/store/merge.py.

    --processes=4        four processes of this machine, started again when one is killed
    started once a host  by launch.submit or a cluster's own launcher: part k of n
    --shard=2/8          part 2 of 8 (0 to 7), by itself: in any order, at any time, e.g. an array
                         of jobs

Processes share nothing but the folder: each sees its own devices alone (JAX's distributed runtime
is not started) and does not wait for others.
"""

import os
import pathlib
import sys
import time
from collections.abc import Callable

from absl import flags

from avjax.errors import UserError
from avjax.hosts import cluster, distributed
from avjax.storage import paths
from data_pipelines.store import merge as data_parts
from data_pipelines.store.merge import Part
from launch import cli
from launch.targets import processes

SPREAD = "AVJAX_SPREAD"  # a variable of the processes that --processes starts
FIND = 300.0  # seconds for a cluster to say where its hosts are
RESTARTS = 20  # of --processes
# seconds after one's end within which all that a cluster started together have begun
TOGETHER = 60.0
GRACE = 10.0  # seconds between one's death and the end of the others: nothing is lost by a kill


def define_flags() -> None:
    flags.DEFINE_integer("processes", None, "Processes of this machine that share the work.",
                         lower_bound=2)
    flags.DEFINE_string("shard", None, "I/N: only part I of N, by itself.")


def spread(module: str, out: str, tell: Callable[[pathlib.Path], object] | None = None) -> None:
    """With --processes: runs this command in so many processes, and ends with their exit code. Else
    returns. `tell`: says what was made, instead of where it is: only one of the processes knows,
    and it may not be the first, which is the one that is heard."""
    args = flags.FLAGS
    if not args.processes or SPREAD in os.environ:  # this is one of them
        return
    if "JAX_PROCESS_ID" in os.environ:
        raise UserError("this is one of a job's processes already", where="--processes",
                        found="JAX_PROCESS_ID=" +
                        os.environ["JAX_PROCESS_ID"], hint="leave --processes out: each host makes "
                                                           "its part")
    if args.shard:
        raise UserError("--shard is one part by itself", where="--processes",
                        hint="leave one of the two out")
    folder = pathlib.Path(pathlib.Path(out).name if paths.is_remote(out) else out).absolute()
    code = processes.run([*cli.child(module), *sys.argv[1:]], processes=args.processes,
                         environment={SPREAD: "1"}, logs=folder.with_name(f".{folder.name}.logs"),
                         cwd=pathlib.Path.cwd(), max_restarts=RESTARTS, grace=GRACE)
    if not code and tell and not paths.is_remote(out):
        tell(folder)
    elif not code:
        print(f"written: {out if paths.is_remote(out) else folder}")
    sys.exit(code)


def share(shard: str | None) -> tuple[int, int]:
    """(k, n): this process does the k-th of n parts, as --shard or its place among the job's
    processes decides."""
    if shard:
        index, slash, count = shard.partition("/")
        if not (slash and index.isdigit() and count.isdigit()) or int(index) >= int(count):
            raise UserError("not a part", where="--shard", expected="I/N with I < N, e.g. 0/8",
                            found=repr(shard))
        return int(index), int(count)
    try:
        return distributed.find(FIND)
    except distributed.Restart as error:
        distributed.log(f"restartable: {error.message}")
        raise


def part_of(out: str, shard: str | None) -> str | Part:
    """The folder, or this process' part of it: --shard's, or its own as one of the job's
    processes."""
    index, count = share(shard)
    return out if count == 1 and not shard else Part(pathlib.Path(out), index, count)


def end(part: Part, shard: str | None) -> None:
    """Says what is left when others are not whole. Processes that were started together are looked
    for: exit code 75 where others have not even begun, since then nobody puts the parts
    together."""
    print(f"part {part.index} of {part.count} is whole; whoever finishes last puts {part.out_dir} "
          "together")
    wait_for_others(part.out_dir, (part.index, part.count), shard,
                    lambda: data_parts.not_begun(part))


def wait_for_others(out, share: tuple[int, int], shard: str | None,
                    not_begun: Callable[[], list[int]]) -> None:
    """Returns once all the processes that were started together have begun their parts. Exit code
    75 where some have not after a minute. `not_begun()`: indices of their parts."""
    if shard or SPREAD in os.environ:
        return
    until = time.monotonic() + TOGETHER
    while (idle := not_begun()) and time.monotonic() < until:
        time.sleep(0.2)
    if idle:
        place = cluster.find(seconds=FIND)
        distributed.log(
            f"restartable: {out} is not whole: {share[1]} processes are expected "
            f"({place.source}), and "
            f"nobody has begun part {', '.join(map(str, idle[:16]))}; came: process {share[0]}; "
            "start all of them, e.g. by srun or mpirun, or this one with JAX_NUM_PROCESSES=1 to "
            "make everything alone")
        sys.exit(distributed.RESTARTABLE)
