"""Jobs in forked children that send themselves a SIGKILL before or after the n-th thing that they
do to a disk.

Run as a program, of modules that are imported once: python kill_points.py FOLDER store | parts |
FAMILY...
"""

import itertools
import json
import os
import pathlib
import shutil  # noqa: F401 (its rmtree is counted)
import signal
import sys
import traceback
from collections.abc import Callable

TOUCHES = (("os", "fsync"), ("os", "rename"), ("os", "replace"), ("os", "link"), ("os", "unlink"),
           ("shutil", "rmtree"))


def child(job: Callable[[], None], at: int | None = None) -> list[int] | None:
    """Runs the job in a child. None if it was killed, else the moments that there are to kill it
    at."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            moments = _arm(at)
            job()
            os.write(write, json.dumps(moments).encode())
            os._exit(0)
        except BaseException:  # noqa: BLE001
            traceback.print_exc()
            os._exit(1)
    os.close(write)
    status = os.waitpid(pid, 0)[1]
    with open(read) as pipe:
        said = pipe.read()
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return None
    assert status == 0, "the job failed"
    return json.loads(said)


def _arm(at: int | None) -> list[int]:
    """Counts calls; even moments are before one, odd ones after it. Returns the list that moments
    will be in."""
    moments, calls, fsync = [], itertools.count(), os.fsync

    def counted(function):
        def call(*args, **kw):
            now = 2 * next(calls)
            if at == now:
                os.kill(os.getpid(), signal.SIGKILL)
            # A killed process leaves what it wrote to the system: to synchronise would only take
            # time.
            out = None if function is fsync else function(*args, **kw)
            if at == now + 1:
                os.kill(os.getpid(), signal.SIGKILL)
            moments.extend([now] if function is fsync else [now, now + 1])
            return out
        return call

    for module, name in TOUCHES:
        setattr(sys.modules[module], name, counted(getattr(sys.modules[module], name)))
    return moments


def _demo(folder: pathlib.Path, shard_bytes: int, shard_seconds: float):
    """(job that makes a small dataset of several shards, some of which are joined, what is in one,
    the file that has a line an item computed)."""
    import numpy as np

    from data_pipelines.store import dataset as store
    from data_pipelines.store.resume import Partial
    from data_pipelines.store.schema import Feature

    store.SHARD_BYTES, store.SHARD_SECONDS = shard_bytes, shard_seconds
    features = {"id": Feature((), "str", "name"),
                "x": Feature((None,), "float32", "numbers", "", 25.0),
                "y": Feature((None, 3), "int16", "frames beside", "", 25.0, apart=True)}
    made = folder / "made.txt"

    def make(split, i):
        with open(made, "a") as file:
            file.write(f"{split}{i}\n")
        if i == 4:
            raise store.Unusable("odd", id=f"{split}{i}")
        x = np.random.default_rng(i).normal(size=100 + i).astype(np.float32)
        return [{"id": f"{split}{i}.{k}", "x": x[k:],
                 "y": np.full((k + i % 2, 3), 9 * i + k, np.int16)} for k in range(1 + i % 3)]

    def job(out):
        with Partial(out, {"seed": 1}) as partial:
            # another one every time
            codec = partial.once("codec", lambda: {"draw": np.random.default_rng().normal(size=3)})
            splits = {s: [(lambda s=s, i=i: make(s, i)) for i in range(n)] for s,
                      n in (("train", 5), ("valid", 2))}
            store.write_dataset(partial, name="demo", description="", features=features,
                                recipes={"x": {"kind": "noise"}}, codecs={"codec": codec},
                                splits=splits, max_bad=0.5, progress=False)

    def content(out):
        dataset = store.open_dataset(out)
        dataset.verify()
        assert {s: list(dataset.source(s).ids) for s in dataset.splits} == dataset.ids
        assert all((dataset.lengths(s, ["x"])["x"] == [len(e["x"])
                                                       for e in dataset.source(s)]).all()
                   for s in dataset.splits)
        return {s: [(e["id"], e["x"].tobytes(), e["y"].tobytes()) for e in dataset.source(s)]
                for s in dataset.splits}

    return job, content, made


def _parts(folder: pathlib.Path) -> None:
    """The same dataset in three parts: one of them killed at every moment and continued, and all at
    once many times."""
    from data_pipelines.store.merge import Part

    job, content, made = _demo(folder, 8000, 60.0)  # every part's shard of a split is a small one
    child(lambda: job(folder / "whole"))
    expected, items = content(folder / "whole"), sorted(made.read_text().split())
    refused = (folder / "whole.quarantine.jsonl").read_text()

    def check(out):
        assert content(out) == expected, out
        assert (folder / f"{out.name}.quarantine.jsonl").read_text() == refused
        assert not (folder / f".{out.name}.partial" / "data").exists()

    def run(out, k, at=None):
        return child(lambda: job(Part(out, k, 3)), at)

    total = 0
    # the part that is killed: the first, or the one that also puts them together
    for last in (False, True):
        order = (1, 0, 2) if last else (2, 0, 1)
        whole = folder / f"whole{last}"
        moments = [run(whole, k) for k in order][2 if last else 0]
        check(whole)
        # what the first part does alone, the test above has seen
        for at in moments if last else moments[::3]:
            out = folder / f"parts{last}{at}"
            made.unlink()
            for k in order:
                killed = k == order[2 if last else 0]
                assert run(out, k, at if killed else None) is (None if killed
                                                               else moments) or not killed
                if killed and not out.exists():
                    # The last one is continued by itself, or the parts were whole and another one
                    # puts them together.
                    again = order[0] if last and at > moments[-1] - 4 and at % 4 else k
                    run(out, again)
                    if not out.exists():
                        run(out, k)
            check(out)
            # else killed while it was removed
            assert at > moments[-1] - 4 or not (folder / f".{out.name}.partial").exists()
            assert set(made.read_text().split()) == set(items)
        total += len(moments)
    for attempt in range(5):
        out = folder / f"atonce{attempt}"
        made.unlink()
        pids = []
        for k in range(3):
            if not (pid := os.fork()):
                try:
                    job(Part(out, k, 3))
                    os._exit(0)
                except BaseException:  # noqa: BLE001
                    traceback.print_exc()
                    os._exit(1)
            pids.append(pid)
        assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0, 0]
        check(out)
        assert not (folder / f".{out.name}.partial").exists()
        assert sorted(made.read_text().split()) == items
    print("moments", total)


def _store(folder: pathlib.Path) -> None:
    """A small dataset of several shards, killed at every moment, each time begun anew and then
    continued to its end."""
    job, content, made = _demo(folder, 4000, 0.0)  # a shard an item
    moments = child(lambda: job(folder / "whole"))
    expected, items = content(folder / "whole"), made.read_text().split()
    refused = (folder / "whole.quarantine.jsonl").read_text()
    assert len(moments) > 25 and len(items) == 7 and len(refused.splitlines()) == 1
    for at in moments:
        out = folder / f"killed{at}"
        made.unlink(missing_ok=True)
        assert child(lambda: job(out), at) is None  # noqa: B023
        first = made.read_text().split() if made.exists() else []
        if not out.exists():
            journal = folder / f".killed{at}.partial" / "journal.jsonl"
            kept = journal.read_text().count("position") if journal.exists() else 0
            made.unlink(missing_ok=True)
            child(lambda: job(out))  # noqa: B023
            again = made.read_text().split() if made.exists() else []
            assert set(first) | set(again) == set(items)
            assert kept < 2 or len(again) < len(items), "finished items were computed again"
        else:  # killed after the last rename: the dataset is there
            made.touch()
        assert content(out) == expected, at
        assert (folder / f"killed{at}.quarantine.jsonl").read_text() == refused
        left = [p.name for p in folder.glob(f".killed{at}.*") if (p / "data").exists()]
        assert not left, left
    print("moments", len(moments))


def _family(name: str, folder: pathlib.Path, clips: pathlib.Path, **options) -> None:
    """Features killed early, in the middle and late, and continued, against those of one go."""
    from data_pipelines import extract
    from data_pipelines.store import dataset as store

    store.SHARD_SECONDS = 0.0  # so that every item is kept

    def job(out):
        extract.extract(clips, out, features=name, progress=False, **options)

    moments = child(lambda: job(folder / name))
    out = folder / f"{name}_killed"
    # of what is left to do, the second time
    for at in (moments[len(moments) // 2], moments[len(moments) // 5]):
        assert child(lambda: job(out), at) is None
    if not out.exists():
        child(lambda: job(out))
    whole, continued = store.open_dataset(folder / name), store.open_dataset(out)
    assert whole.ids == continued.ids and whole.recipes == continued.recipes
    for split in whole.splits:
        for a, b in zip(whole.source(split), continued.source(split), strict=True):
            for key, value in a.items():
                assert value == b[key] if isinstance(value,
                                                     str) else value.tobytes() == b[
                                                         key].tobytes(), (split, key)
    print(name, "moments", len(moments))


if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))
    where, what = pathlib.Path(sys.argv[1]), sys.argv[2]
    if what in ("store", "parts"):
        {"store": _store, "parts": _parts}[what](where)
    else:
        import importlib

        families = json.loads(what)
        for family in families:
            importlib.import_module(f"data_pipelines.features.{family}.extract")
        for family, (clips, options) in families.items():
            _family(family, where, pathlib.Path(clips), **options)
