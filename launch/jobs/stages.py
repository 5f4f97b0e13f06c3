"""What runs before training: `config.stages`, in order, each skipped when its output is complete.

    {"kind": "prepare", "dataset": "puppets", "out": "{workdir}/data/clips", ...}
        data_pipelines.prepare.prepare
    {"kind": "extract", "features": "avflow", "clips": "{workdir}/data/clips",
     "out": "{workdir}/data/features", ...}
        data_pipelines.extract.extract
    {"kind": "train", "config": "configs/head_vae.py", "workdir": "{workdir}/head_vae",
     "overrides": {"a.b": value, "seed": "{seed}"}}
        launch.training.run_training; "{seed}" is the experiment's own

Beside every output is `<output>.stage.json`: the arguments that made it, with paths in the workdir
as "{workdir}/...", so that the workdir may be moved, and what it was made of. An output made with
other arguments, or of other data, is an error that says which folder to delete. Clips whose kind
takes in changes are prepared again each time, which is quick where nothing has changed, and the
features of these clips are extracted again when they have. Once training has begun, changes are
printed and left out, since a run cannot go on with other data.

Of several hosts, each extracts parts (data_pipelines/store/merge.py) and all run a stage that
trains; host 0 alone prepares while the others wait. An interrupted extraction keeps its parts,
whatever the number of hosts that go on.
"""

import contextlib
import functools
import json
import sys
import time
from pathlib import Path

from avjax.errors import UserError
from avjax.hosts import distributed
from avjax.storage import lock, made, paths
from launch.flags import fill, load_config, unfill

KINDS = ("prepare", "extract", "train")
SEED = "{seed}"


def seeded(stages, seed: int):
    """Stages, or a value of theirs, with the experiment's seed for each value "{seed}"."""
    if hasattr(stages, "items"):
        return {key: seeded(of, seed) for key, of in stages.items()}
    if isinstance(stages, list | tuple):
        return type(stages)(seeded(of, seed) for of in stages)
    return seed if stages == SEED else stages


def run_stages(stages, workdir: Path) -> dict[str, float]:
    """Runs what is missing; returns seconds by stage. Raises UserError."""
    seconds: dict[str, float] = {}
    for index, stage in enumerate(stages):
        arguments = fill(stage, workdir)
        kind = arguments.pop("kind", None)
        where = f"config.stages[{index}]"
        if kind not in KINDS:
            raise UserError("unknown stage", where=where, expected=" or ".join(KINDS),
                            found=repr(kind))
        target = "workdir" if kind == "train" else "out"
        if not arguments.get(target):
            raise UserError("a stage without an output", where=where,
                            expected=f"a value for {target!r}")
        out = paths.folder(arguments[target])
        if kind != "train" and paths.is_remote(out):
            raise UserError("this stage writes to a local disk", where=where, expected="a folder",
                            found=str(out), hint="name a folder that all hosts see, in the stage "
                                                 "and in config.data.dir; the workdir may stay")
        start = time.perf_counter()
        name = f"{kind} {out}"
        asked = _portable(arguments, out, workdir)
        is_whole = functools.partial(_is_whole, kind, asked, out, where, workdir, stages)
        if distributed.on_main(f"is it whole: {name}", is_whole):
            _tell(f"{name}: whole, skipped")
            continue
        _tell(name)
        if distributed.is_main():
            _record(out, kind, asked, _made_of(kind, arguments), done=False)
        if kind == "train":
            _run(kind, dict(arguments), where)
        elif kind == "extract":
            _extract(name, arguments, where)
        else:
            distributed.on_main(name, lambda: _run(kind, dict(arguments), where))  # noqa: B023
        if distributed.is_main():
            _record(out, kind, asked, _made_of(kind, arguments), done=True)
        seconds[f"{kind} {out.name}"] = time.perf_counter() - start
    return seconds


@contextlib.contextmanager
def sole_makers(stages, workdir: Path):
    """While inside, no other job makes the datasets of these stages, wherever they are; one that
    does is waited for."""
    with contextlib.ExitStack() as held:
        def take() -> bool:
            for stage in stages:
                if stage.get("kind") in ("prepare", "extract") and stage.get("out"):
                    out = fill(stage["out"], workdir)
                    held.enter_context(lock.hold(lock.beside(out), "the dataset", out,
                                                 wait=distributed.STAGE_SECONDS))
            return True

        distributed.on_main("the locks of the stages' datasets", take)
        yield


def _tell(text: str) -> None:
    if distributed.is_main():
        print(text, file=sys.stderr, flush=True)


def _record_file(out: Path) -> Path:
    return out.with_name(out.name + ".stage.json")


def _record(out: Path, kind: str, arguments: dict, made_of: str | None, *, done: bool) -> None:
    file = _record_file(out)
    file.parent.mkdir(parents=True, exist_ok=True)
    paths.write_text(file, json.dumps({"kind": kind, "arguments": arguments, "made_of": made_of,
                                       "done": done}, indent=1))


def _made_of(kind: str, arguments: dict) -> str | None:
    """Digest of the data that a stage reads; None if it reads none, or they are not there."""
    if kind == "extract" and arguments.get("clips") and Path(arguments["clips"]).exists():
        from data_pipelines.store.dataset import open_dataset

        return open_dataset(arguments["clips"]).content
    ingest = _ingest(kind, arguments)
    if ingest and ingest.made_of and Path(arguments.get("source", "")).is_dir():
        return ingest.made_of(arguments)
    return None


def _ingest(kind: str, arguments: dict):
    """The declaration of what a stage prepares from a source; None for any other stage."""
    from data_pipelines import prepare

    if kind != "prepare" or "source" not in arguments:
        return None
    known = arguments.get("dataset") in prepare.names()
    return prepare.load(arguments["dataset"]) if known else None


def _follows_changes(arguments: dict, stages: list[dict], workdir: Path) -> bool:
    """Whether the clips that a stage extracts from are prepared, by another stage, from a source
    whose changes are taken in."""
    for stage in (fill(stage, workdir) for stage in stages):
        ingest = _ingest(stage.get("kind", ""), stage)
        inside = str(arguments.get("clips")).startswith(str(stage.get("out")))
        if ingest and ingest.takes_in_changes and inside:
            return True
    return False


def _portable(arguments: dict, out: Path, workdir: Path) -> dict:
    """The arguments as they are recorded: relative to the workdir where the output moves with
    it."""
    inside = str(out).startswith(f"{workdir}/")
    return json.loads(json.dumps(unfill(arguments, workdir) if inside else arguments))


def _recorded(arguments: dict, wanted: dict, target: str) -> dict:
    """A record's arguments in the words of today: older ones name their workdir, wherever it was
    then."""
    now, then = wanted[target], arguments.get(target, "")
    inside = now.removeprefix("{workdir}")
    if now == inside or not then.endswith(inside):
        return arguments
    return unfill(arguments, then.removesuffix(inside))


def _is_whole(kind: str, asked: dict, out: Path, where: str, workdir: Path, stages) -> bool:
    """Whether nothing is to be done. Raises UserError: `out` was made otherwise, or of other data,
    or is damaged."""
    if not out.exists():
        return False
    record = made.read(_record_file(out), hint=f"bring it back, or move {out} away to have it made "
                                               "again")
    if record is None:
        if kind == "train":
            return False
        raise UserError("a stage's output folder exists, but not from this job",
                        where=f"{where}, {out}", expected=f"{_record_file(out).name} beside it",
                        found="none", hint=f"delete the folder {out}, or point the stage elsewhere")
    _check_same(kind, asked, record, out, where, workdir)
    if kind == "train":
        return record["done"]  # else training resumes from its last checkpoint
    arguments = fill(asked, workdir)
    ingest = _ingest(kind, arguments)
    if ingest and ingest.takes_in_changes:
        return _stays(ingest, arguments, out, workdir)
    before, now = record.get("made_of"), _made_of(kind, arguments)
    if before and now and before != now:
        if kind == "extract" and _follows_changes(arguments, stages, workdir):
            return False
        raise UserError("a stage's output was made of other data", where=f"{where}, {out}",
                        expected=f"what {arguments.get('clips') or arguments.get('source')} holds "
                        "now", found="what it held then",
                        hint=f"delete the folder {out}, which is made again, or point the stage "
                        "elsewhere")
    from data_pipelines.store.dataset import open_dataset

    # written whole or not at all, so it need not be marked as done; UserError when damaged
    open_dataset(out, begun=record["done"])
    return True


def _check_same(kind: str, asked: dict, record: dict, out: Path, where: str, workdir: Path) -> None:
    """Raises UserError unless the output was made with these arguments. Paths may have moved."""
    wanted = {"kind": kind} | asked
    found = {"kind": record["kind"]} | _recorded(record["arguments"], asked,
                                                 "workdir" if kind == "train" else "out")
    if ingest := _ingest(kind, asked):
        if ingest.follows_content:
            found["source"] = wanted["source"]
        wanted, found = ({name: value for name, value in arguments.items()
                          if name not in ingest.retired} for arguments in (wanted, found))
    differ = made.differing(wanted, found)
    moved = [name for name in differ if paths.moved(fill(found.get(name), workdir),
                                                    fill(wanted.get(name), workdir))]
    if moved == differ:
        for name in moved:
            _tell(f"{out}: its {name} has moved from {found[name]} to {wanted[name]}")
        return
    made.check(wanted, found, names=differ, what="a stage's output was made with other arguments",
               where=f"{where}, {out}",
               hint=f"delete the folder {out}, use another workdir, or repeat those arguments")


def _stays(ingest, arguments: dict, out: Path, workdir: Path) -> bool:
    """Whether data whose source has changed stay as they are: a run has begun with them, and could
    not go on with others."""
    from launch.training import CONFIG_FILE

    if not (workdir / CONFIG_FILE).exists():
        return False
    if changes := ingest.changes_of(arguments | {"out": out}):
        _tell(f"{changes}\nnot taken into {out}, which this run was begun with: a new --workdir "
              "trains on them")
    return bool(changes)


def _extract(name: str, arguments: dict, where: str) -> None:
    """This host's parts; returns when all hosts have theirs, which is when the dataset is whole."""
    from data_pipelines import extract
    from data_pipelines.store import merge

    out, hosts, peers = Path(arguments["out"]), distributed.process_count(), distributed.peers()
    count, left = distributed.on_main(f"parts of {name}",
                                      lambda: _parts_left(extract.target(out), hosts))
    for index in left[distributed.process_index()::hosts]:
        part = merge.Part(out, index, count) if count > 1 else out
        _run("extract", arguments | {"out": part}, where)
    if peers:
        key = peers.unique(f"stage/{name}")
        peers.put(f"{key}/{peers.me}", True)
        for host in range(hosts):
            peers.wait(f"{key}/{host}", distributed.STAGE_SECONDS,
                       what=f"{peers.name(host)}: {name}")


def _parts_left(out: Path, hosts: int) -> tuple[int, list[int]]:
    """How many parts there are, and which are to be made: not those that are whole, whose folders
    go once the last one is."""
    from data_pipelines.store import merge

    count = merge.begun(out) or hosts
    folders = merge.folders(merge.Part(out, 0, count),
                            out.absolute().with_name(f".{out.name}.partial"))
    missing = merge.missing(folders)
    # it puts them together
    return count, [index for index, folder in enumerate(folders) if folder.name in missing] or [0]


def _run(kind: str, arguments: dict, where: str) -> None:
    if kind == "train":
        from launch.training import run_training

        run_training(load_config(arguments["config"], arguments.get("overrides")),
                     paths.folder(arguments["workdir"]))
        return
    from data_pipelines import extract, prepare

    check_arguments(kind, arguments, where)
    if kind == "prepare":
        prepare.prepare(**arguments)
    else:
        arguments = dict(arguments)
        extract.extract(arguments.pop("clips"), arguments.pop("out"), **arguments)


def check_arguments(kind: str, arguments: dict, where: str) -> None:
    """Raises UserError unless a stage that prepares or extracts has arguments that it can run
    with."""
    from data_pipelines import extract, prepare

    arguments = dict(arguments)
    try:
        if kind == "prepare":
            if "dataset" not in arguments:
                raise UserError("a stage without a dataset", where=where,
                                expected="a value for 'dataset'")
            prepare.check(**arguments)
        else:
            if "clips" not in arguments:
                raise UserError("a stage without clips", where=where,
                                expected="a value for 'clips'")
            extract.check(arguments.pop("clips"), arguments.pop("out"), **arguments)
    except UserError as error:
        raise UserError(f"{where}: wrong arguments of a {kind} stage: {error}") from error
