"""TPU VMs: a queued resource a job (`gcloud compute tpus queued-resources`, GA track of Google
Cloud SDK 528), then ssh.

The machines have an old Python, so uv brings one. Every worker runs the same script, which starts
the job again after code 75; jax.distributed finds the peers by the VMs' metadata. When Spot
machines are taken the resource is suspended and has to be
deleted and created again: the same submission once more, and the job goes on in its workdir.
"""

import shlex

from avjax.errors import UserError
from launch.targets import FATAL, Job, Place, Submission, packaging

NEEDS = ("accelerator", "zone")
OPTIONS = ("max_restarts", "project", "spot", "reservation", "service_account", "runtime_version")
PLATFORMS = ("tpu",)
GCLOUD = ("gcloud", "compute", "tpus", "queued-resources")
PAUSE = 20  # seconds before the job is started again: the peers notice that it went

RUN = """\
#!/bin/bash
# Runs on every worker of {name}: the job, started again after code 75 or a signal's, at most {restarts} times.
cd "$HOME/avjax-{revision}" || exit 1
. .venv/bin/activate
{exports}
echo $$ > "$HOME/{name}.pid"
child= stopped=
trap 'stopped=1 again=1; [ -z "$child" ] || kill -TERM "$child" 2>/dev/null' TERM INT
for ((restart = 0; restart <= {restarts}; restart++)); do
  {command} &
  child=$!
  [ -z "$stopped" ] || kill -TERM "$child"  # asked for when there was no child to be told
  code= again=1
  while [ -n "$again" ]; do  # a trap ends a wait with its signal's code; the child's own comes with the next one
    again=
    wait "$child"; ended=$?
    [ -n "$code" ] && [ "$ended" -eq 127 ] || code=$ended  # 127: the last wait had it already
  done
  child=
  echo "{name}: exit code $code after restart $restart"
  case "$code" in 0|{fatal}) break;; esac
  [ -n "$stopped" ] || {{ sleep {pause} & wait $!; }}  # waiting ends with a signal, sleeping does not
  [ -z "$stopped" ] || break
done
exit $code
"""  # noqa: E501 (a script)

INSTALL = """\
#!/bin/bash
# Runs on every worker once: the code and what it needs.
set -e
cd "$HOME"
mkdir -p avjax-{revision}
tar -xzf {archive} -C avjax-{revision}
cd avjax-{revision}
python3 -m pip install --quiet --user uv
"$HOME/.local/bin/uv" venv --quiet --allow-existing --python 3.12 .venv
"$HOME/.local/bin/uv" pip install --quiet --python .venv/bin/python --editable '.{extras}'
"""

WAIT = """\
#!/bin/bash
# Waits until the queued resource $1 is there.
while true; do
  state=$({describe} "$1" --format='value(state.state)') || exit 1
  case "$state" in
    ACTIVE) exit 0;;
    FAILED|SUSPENDING|SUSPENDED|DELETING) echo "$1 is $state; delete it and submit again" >&2; exit 1;;
  esac
  sleep 30
done
"""  # noqa: E501 (a script)


def render(jobs: list[Job], place: Place) -> Submission:
    """Scripts for the workers, and the commands that create, wait, copy, install and start.
    UserError: not as TPU VMs."""
    accelerator = place.accelerator
    if not (place.runtime_version or accelerator.runtime_version):
        raise UserError("these TPUs are not lent as TPU VMs", where="--topology",
                        found=accelerator.topology, expected="v4, v5e, v5p or v6e",
                        hint="--target=gke or --target=xpk")
    where = (f"--zone={place.zone}", *((f"--project={place.project}",) if place.project else ()))
    files = {"install.sh": INSTALL.format(revision=place.revision,
                                          archive=packaging.archive(place.revision),
                                          extras=packaging.extras(place.extras)),
             "wait.sh": WAIT.format(describe=shlex.join((*GCLOUD, "describe", *where)))}
    commands = []
    for job in jobs:
        files[f"{job.name}.sh"] = _script(job, place)
        every = (*where, "--node=all", "--worker=all", "--batch-size=all")
        start = f"nohup bash {job.name}.sh >> {job.name}.log 2>&1 < /dev/null &"
        commands += [
            _create(job, place, where), ("bash", "wait.sh", job.name),
            (*GCLOUD, "scp", packaging.archive(place.revision), "install.sh", f"{job.name}.sh",
             f"{job.name}:", *every),
            (*GCLOUD, "ssh", job.name, *every, "--command=bash install.sh"),
            (*GCLOUD, "ssh", job.name, *every, f"--command={start}")]
    first = jobs[0].name
    shown = shlex.join((first, *where))
    return Submission(files, tuple(commands), "\n".join((
        f"watch: {shlex.join(GCLOUD)} ssh {shown} --node=0 --worker=0 --command='tail -n 100 -f "
        f"{first}.log'",
        f"stop:  {shlex.join(GCLOUD)} ssh {shown} --node=all --worker=all --command='kill $(cat "
        f"{first}.pid)'",
        f"end:   {shlex.join(GCLOUD)} delete {shown} --force")))


def _create(job: Job, place: Place, where: tuple[str, ...]) -> tuple[str, ...]:
    accelerator = place.accelerator
    # 3-D slices by shape, because several have the same number of chips.
    kind = ((f"--type={accelerator.tpu_type}", f"--topology={accelerator.shape_text}")
            if len(accelerator.shape) == 3
            else (f"--accelerator-type={accelerator.accelerator_type}",))
    nodes = ((f"--node-count={place.slices}", f"--node-prefix={job.name}") if place.slices > 1
             else (f"--node-id={job.name}",))
    return (*GCLOUD, "create", job.name, *where, *kind, *nodes,
            f"--runtime-version={place.runtime_version or accelerator.runtime_version}",
            *(("--spot",) if place.spot else ()), *(("--reserved",) if place.reservation else ()),
            *((f"--service-account={place.service_account}",) if place.service_account else ()))


def _script(job: Job, place: Place) -> str:
    exports = "\n".join(f"export {name}={shlex.quote(value)}" for name,
                        value in job.environment.items())
    return RUN.format(name=job.name, revision=place.revision, exports=exports,
                      command=shlex.join(job.command), restarts=place.max_restarts,
                      fatal="|".join(map(str, FATAL)), pause=PAUSE)
