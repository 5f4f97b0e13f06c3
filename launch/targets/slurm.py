"""SLURM: an sbatch script a job (options as in sbatch's and srun's manuals, SLURM 22.05 or later).

One task a node, with all its cards: jax.distributed finds the others by SLURM's variables.
`--signal=TERM@n` without "B:" reaches the tasks n seconds before the time is up; they save and end
with 75, srun ends with the highest of their codes, and the script puts the job back into the queue.
A node that fails, and preemption, SLURM requeues itself (--requeue). The code is unpacked beside
the script, on a file system that all nodes share; jobs run where the user stood, so that his paths
mean what they meant, with the unpacked modules before all others.
"""

import re
import shlex

from launch.targets import RESTART, Job, Place, Submission, packaging

NEEDS = ("accelerator",)
OPTIONS = ("max_restarts", "grace", "queue", "reservation", "account", "time", "setup",
           "cpus_per_task")
PLATFORMS = ("gpu", "cpu")

SCRIPT = """\
#!/bin/bash
{directives}

cancelled=
trap 'cancelled=1' TERM  # this shell gets it from scancel or a preemption, not from --signal; srun ends first
cd {cwd} || exit 1
{setup}{exports}
# One task's end does not kill the others: those that compute together notice by themselves, and save. The end of training is
# one too, after which task 0 evaluates for long.
srun --kill-on-bad-exit=0 --wait=0 --label{options} {command}
code=$?
restarts="${{SLURM_RESTART_COUNT:-0}}"
if {{ [ "$code" -eq {restart} ] || [ "$code" -ge 128 ]; }} && [ -z "$cancelled" ] && [ "$restarts" -lt {max_restarts} ]; then
  echo "exit code $code after $restarts restarts: back into the queue" >&2
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""  # noqa: E501 (a script)


def render(jobs: list[Job], place: Place) -> Submission:
    """A script a job, and the commands that unpack the code and submit."""
    code = f"code-{place.revision}"
    commands = [("mkdir", "-p", code), ("tar", "-xzf", packaging.archive(place.revision), "-C",
                                        code)]
    commands += [("sbatch", f"{job.name}.sbatch") for job in jobs]
    return Submission({f"{job.name}.sbatch": script(job, place, f"{place.folder}/{code}")
                       for job in jobs}, tuple(commands),
                      f"watch: tail -F {jobs[0].name}-*.log\nstate: squeue --me\nend:   scancel "
                      f"--name={jobs[0].name}")


def script(job: Job, place: Place, code: str) -> str:
    """The batch script of one job; `code` is the folder of the modules."""
    accelerator = place.accelerator
    gpus = accelerator.chips_per_host if accelerator.platform == "gpu" else 0
    directives = {
        "job-name": job.name, "nodes": accelerator.hosts * place.slices, "ntasks-per-node": 1,
        "gpus-per-node": gpus, "cpus-per-task": place.cpus_per_task, "partition": place.queue,
        "account": place.account, "time": place.time, "reservation": place.reservation,
        "output": f"{job.name}-%j.log", "open-mode": "append",
        "signal": f"TERM@{place.grace}"}
    lines = [f"#SBATCH --{name}={value}" for name, value in directives.items() if value]
    if not place.cpus_per_task:
        lines.append("#SBATCH --exclusive")  # a node's cores and memory are for its one task
    # srun does not take it over from sbatch; and a task that was bound to one core would crawl.
    options = (f" --cpus-per-task={place.cpus_per_task}" if place.cpus_per_task
               else " --cpu-bind=none")
    command = [f"--config={code}/{text.removeprefix('--config=')}"
               if re.match("--config=(?!/)", text) else text
               for text in job.command]
    command.insert(1, "-P")  # not the modules of the current folder
    return SCRIPT.format(
        directives="\n".join([*lines, "#SBATCH --requeue"]), setup=place.setup and place.setup
        + "\n", cwd=shlex.quote(place.cwd), restart=RESTART, max_restarts=place.max_restarts,
        exports="\n".join(f"export {name}={shlex.quote(value)}" for name, value in
                          (job.environment | {"PYTHONPATH": code}).items()),
        options=options, command=shlex.join(command))
