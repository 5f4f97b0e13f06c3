"""What runs before training: `config.stages`, in order, each skipped when its output is already
whole.

    {"kind": "prepare", "dataset": "puppets", "out": "{workdir}/data/clips", ...}        launch.prepare.prepare
    {"kind": "extract", "features": "avflow", "clips": "{workdir}/data/clips", "out":
                                                                            "{workdir}/data/features", ...} data_pipelines.features.<features>.extract
    {"kind": "train", "config": "configs/head_vae.py", "workdir": "{workdir}/head_vae", "overrides":
    {"a.b": value}}

Beside every output lies `<output>.stage.json`, the arguments that made it, paths in the workdir as
"{workdir}/...", so that the workdir may be moved, and what it was made of. An output made with
other arguments, or of other data, is an error that says which folder to delete, never silently used
or overwritten. Datasets that take in what has changed since (clips) are prepared again each time,
which is soon done where nothing has; once training has begun, changes are told and left out, since
a run cannot go on with other data.

Of several hosts, each extracts a part (data_pipelines/store/merge.py); a stage that trains is run
by all of them, and host 0 alone prepares while the others wait for it. An interrupted extraction
keeps its parts, whatever the number of hosts that go on.
"""

import contextlib
import importlib
import inspect
import json
import pkgutil
import sys
import time
from pathlib import Path

from avjax.errors import UserError
from avjax.hosts import distributed
from avjax.storage import lock, paths
from launch.flags import fill, launcher, load_config, unfill

KINDS = ("prepare", "extract", "train")


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
        words = _words(arguments, out, workdir)
        if distributed.on_main(f"is it whole: {name}",
                               lambda: _is_whole(kind, words, out, where, workdir)):  # noqa: B023
            _tell(f"{name}: whole, skipped")
            continue
        _tell(name)
        if distributed.is_main():
            _record(out, kind, words, _made_of(kind, arguments), done=False)
        if kind == "train":
            _run(kind, dict(arguments), where)
        elif kind == "extract":
            _extract(name, arguments, where)
        else:
            distributed.on_main(name, lambda: _run(kind, dict(arguments), where))  # noqa: B023
        if distributed.is_main():
            _record(out, kind, words, _made_of(kind, arguments), done=True)
        seconds[f"{kind} {out.name}"] = time.perf_counter() - start
    return seconds


@contextlib.contextmanager
def sole_makers(stages, workdir: Path):
    """While inside, no other job makes the datasets that these stages make, wherever they lie; one
    that does is waited for."""
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
    record = {"kind": kind, "arguments": arguments, "made_of": made_of, "done": done}
    paths.write_text(file, json.dumps(record, indent=1))


def _made_of(kind: str, arguments: dict) -> str | None:
    """Tells the data that a stage reads from other data at the same place; None where there is
    none, or none any more."""
    if kind == "extract" and arguments.get("clips") and Path(arguments["clips"]).exists():
        from data_pipelines.store.dataset import open_dataset

        return open_dataset(arguments["clips"]).content
    if (tells := _of_ingest(kind, arguments,
                            "made_of")) and Path(arguments.get("source", "")).is_dir():
        return tells(arguments["source"], arguments.get("tts"))
    return None


def _of_ingest(kind: str, arguments: dict, name: str):
    """What an ingest says of itself; None where it says nothing."""
    if kind != "prepare" or "source" not in arguments:
        return None
    from data_pipelines import ingest

    known = [m.name for m in pkgutil.iter_modules(ingest.__path__)]
    dataset = arguments.get("dataset")
    return getattr(importlib.import_module(f"{ingest.__name__}.{dataset}.prepare"), name,
                   None) if dataset in known else None


def _words(arguments: dict, out: Path, workdir: Path) -> dict:
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


def _is_whole(kind: str, arguments: dict, out: Path, where: str, workdir: Path) -> bool:
    if not out.exists():
        return False
    try:
        record = json.loads(_record_file(out).read_text())
    except FileNotFoundError:
        record = None
    except ValueError as error:
        raise UserError("a stage's record is unreadable", where=str(_record_file(out)),
                        hint=f"bring it back, or move {out} away to have it made again") from error
    if record is not None:
        wanted = {"kind": kind} | arguments
        found = {"kind": record["kind"]} | _recorded(record["arguments"], arguments,
                                                     "workdir" if kind == "train" else "out")
        if any(_of_ingest(kind, arguments, name) for name in ("made_of", "TAKES_IN_CHANGES")):
            found["source"] = wanted["source"]  # what is in it counts, not where it is
        differ = [k for k in sorted({*wanted, *found}) if wanted.get(k) != found.get(k)]
        moved = [k for k in differ if paths.moved(fill(found.get(k), workdir),
                                                  fill(wanted.get(k), workdir))]
        if moved == differ:
            for k in moved:
                _tell(f"{out}: its {k} has moved from {found[k]} to {wanted[k]}")
        else:
            raise UserError("a stage's output was made with other arguments",
                            where=f"{where}, {out}",
                            expected=", ".join(f"{k}={wanted.get(k)!r}" for k in differ),
                            found=", ".join(f"{k}={found.get(k)!r}" for k in differ),
                            hint=f"delete the folder {out}, use another workdir, or repeat those "
                            "arguments")
    if record is None and kind != "train":
        raise UserError("a stage's output folder exists, but not from this job",
                        where=f"{where}, {out}", expected=f"{_record_file(out).name} beside it",
                        found="none", hint=f"delete the folder {out}, or point the stage elsewhere")
    if kind == "train":
        # else training goes on from its last checkpoint
        return record is not None and record["done"]
    if _of_ingest(kind, arguments, "TAKES_IN_CHANGES"):
        return _stays(fill(arguments, workdir), out, workdir)
    before, now = record.get("made_of"), _made_of(kind, fill(arguments, workdir))
    if before and now and before != now:
        raise UserError("a stage's output was made of other data", where=f"{where}, {out}",
                        expected=f"what {arguments.get('clips') or arguments.get('source')} holds "
                        "now", found="what it held then",
                        hint=f"delete the folder {out}, which is made again, or point the stage "
                        "elsewhere")
    from data_pipelines.store.dataset import open_dataset

    begun = record is not None and record["done"]
    # written whole or not at all, so it need not be marked as done; UserError when damaged
    open_dataset(out, begun=begun)
    return True


def _stays(arguments: dict, out: Path, workdir: Path) -> bool:
    """Whether data whose source has changed are left as they are: a run that was begun with them,
    and could not go on with others."""
    from launch.training import CONFIG_FILE

    if not (workdir / CONFIG_FILE).exists():
        return False
    changes = _of_ingest("prepare", arguments, "changes_of")(arguments["source"], out,
                                                             arguments.get("speaker"))
    if changes:
        _tell(f"{changes}\nnot taken into {out}, which this run was begun with: a new --workdir "
              "trains on them")
    return bool(changes)


def _extract(name: str, arguments: dict, where: str) -> None:
    """This host's parts; returns when all hosts have theirs, which is when the dataset is whole."""
    from data_pipelines.store import merge

    out, hosts, peers = Path(arguments["out"]), distributed.process_count(), distributed.peers()
    count, left = distributed.on_main(f"parts of {name}", lambda: _parts_left(out, hosts))
    for index in left[distributed.process_index()::hosts]:
        _run("extract", arguments | {"out": merge.Part(out, index, count) if count > 1 else out},
             where)
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
    if kind == "prepare":
        function = launcher("launch.prepare").prepare
    else:
        from data_pipelines.extract import extractor

        function = extractor(arguments.pop("features", "avflow"))
        arguments = {"clips_dir" if k == "clips" else "out_dir" if k == "out" else k: v for k,
                     v in arguments.items()}
    try:
        inspect.signature(function).bind(**arguments)
    except TypeError as error:
        raise UserError(f"wrong arguments of a {kind} stage", where=where, found=str(error),
                        expected=str(inspect.signature(function))) from error
    function(**arguments)
