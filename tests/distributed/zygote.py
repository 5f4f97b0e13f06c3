"""Forks jobs of job.py from a process that has imported everything and touched no device, so that a
start costs only its work.

One JSON line in, {"arguments": [...], "log": FILE, "env": {...}}; one line out, the process id.
When a process ends, its exit code is in FILE.code.
"""

import json
import os
import select
import sys
import traceback

import job

from avjax.storage.failures import exit_cleanly


def run(arguments: list[str], log: str, env: dict[str, str]) -> int:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ.update(env)
    try:
        exit_cleanly(job.main)(arguments)
    except SystemExit as end:
        return end.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def reap(children: dict[int, str]) -> None:
    while children:
        child, status = os.waitpid(-1, os.WNOHANG)
        if not child:
            return
        file = children.pop(child) + ".code"
        with open(file + ".tmp", "w") as out:
            out.write(str(os.waitstatus_to_exitcode(status)))
        os.rename(file + ".tmp", file)


def main() -> None:
    job.train.flags.FLAGS.mark_as_parsed()
    children: dict[int, str] = {}
    while True:
        if select.select([sys.stdin], [], [], 0.02)[0]:
            line = sys.stdin.readline()
            if not line:
                return
            request = json.loads(line)
            child = os.fork()
            if child == 0:
                os._exit(run(**request))
            children[child] = request["log"]
            print(child, flush=True)
        reap(children)


if __name__ == "__main__":
    main()
