"""launch.train, evaluate and generate with --workdir=gs://...: everything but the data lies in a
(faked) bucket."""

import json
import types
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from avjax.checkpoint import remote
from avjax.errors import UserError
from avjax.storage import lock, paths
from avjax.systems import api
from data_pipelines import decode, prompting
from eval.report import plots
from launch import evaluate as evaluate_command
from launch import generate, train, training
from launch.jobs import evaluate as jobs
from launch.jobs import stages
from tests import evaluate_flags
from tests.checkpoint import fake_gcs
from tests.eval import toys
from tests.launch.walks import config, write_clips

store = fake_gcs.store


def test_a_run_in_a_bucket_and_what_cannot_lie_there(store, tmp_path, one_device,  # noqa: F811
                                                     monkeypatch):
    clips, workdir = write_clips(tmp_path / "clips").dir, paths.folder("gs://bucket/runs/x")
    training.run_training(config(clips, **{"train.steps": 2, "train.evaluate_every": 0}), workdir)

    # sees a local folder with a checkpoint, and what it writes goes back
    def evaluate(config, here):
        assert (here / "checkpoints" / "4"
                / "state").is_dir() and np.load(here / "codecs" / "pose.npz")["std"].sum() == 7
        (here / "results.json").write_text("{}")

    monkeypatch.setattr(jobs, "evaluate", evaluate)
    for name in ("check_config", "check_what_follows"):  # which would refuse this benchmark
        monkeypatch.setattr(train, name, lambda *given: None)
    train.run(config(clips, **{"evaluate.benchmark": "some", "evaluate.in_loop_examples": 0,
                               "train.evaluate_every": 0}), workdir)
    assert store["bucket/runs/x/results.json"][0] == b"{}"
    assert json.loads(store["bucket/runs/x/config.json"][0])["train"]["steps"] == 4
    records = [json.loads(line)
               for line in store["bucket/runs/x/metrics.jsonl"][0].decode().splitlines()]
    assert [r["step"] for r in records if r["kind"] == "train"] == [1, 2, 3, 4]
    for name in ("recipes.json", "codecs/pose.npz"):
        assert store[f"bucket/runs/x/{name}"][0] == (Path(clips) / name).read_bytes()
    with pytest.raises(UserError, match="begun with another config; where: "
                                        "gs://bucket/runs/x/config.json.*system.d_ff"):
        training.run_training(config(clips, **{"system.d_ff": 32}), workdir)
    with pytest.raises(UserError, match="data is read from disks; where: config.data.dir"):
        training.run_training(config("{workdir}/data"), workdir)
    with pytest.raises(UserError, match="this stage writes to a local disk; where: "
                                        "config.stages.0.; .* found: gs://bucket/runs/x/d"):
        stages.run_stages(({"kind": "extract", "clips": str(clips), "out": "{workdir}/d"},),
                          workdir)


class Toy(toys.System):
    """Learns to give back what it is told."""

    config = types.SimpleNamespace(to_dict=lambda: {"name": "toy"}, name="toy")

    def loss(self, params, batch, key):
        loss = jnp.mean((batch["tokens"] @ params["w"] - batch["tokens"]) ** 2
                        * batch["mask"][..., None])
        return loss, {"loss": loss}


RUN = "gs://bucket/runs/toy"
trained: dict[str, bytes] = {}  # its objects


@pytest.fixture
def toy(store, tmp_path, one_device, monkeypatch):  # noqa: F811
    """config of a toy that was trained for two steps in RUN."""
    toys.write_corpus(tmp_path / "features")
    c = toys.config(splits=("valid",), max_examples=3, batch_size=2)
    c.system.name = "toy"
    c.update_from_flattened_dict({"data.dir": str(tmp_path / "features"), "data.batch_size": 2,
                                  "data.segment": 16, "name": "toy", "train.steps": 2,
                                  "train.checkpoint_every": 1, "train.keep_last": 2,
                                  "train.evaluate_every": 0,
                                  "train.peak_flops": 1e11})
    monkeypatch.setattr(api, "build", lambda _: Toy())
    monkeypatch.setattr(decode.Decoder, "from_dataset",
                        classmethod(lambda cls, dataset, vocoder: toys.Decoder()))
    if not trained:
        training.run_training(c.lock(), RUN)
        trained.update({name: data for name, (data, _) in store.items()})
    for name, data in trained.items():
        store.put(name, data)
    return c.lock()


@pytest.fixture
def evaluate(toy, monkeypatch):
    """launch.evaluate as a command: evaluate("--checkpoint's value")."""
    monkeypatch.setattr(plots, "png", lambda figure: plots.plt.close(figure) or b"drawn")

    def run(checkpoint, out=None, split=None, shard=None):
        evaluate_flags.flags(monkeypatch, config=toy, checkpoint=checkpoint, out=out, split=split,
                             shard=shard)
        evaluate_command.main([])
    return run


def in_run(store, name):
    return store[f"bucket/runs/toy/{name}"][0]


def test_evaluation_of_a_checkpoint_in_a_bucket(store, evaluate, capfd):
    before = {name for name in store if "/checkpoints/" in name}
    evaluate(f"{RUN}/checkpoints/1")
    results = json.loads(in_run(store, "results.json"))
    assert results["step"] == 1 and len(results["rows"]) == 3 and b"<video" in in_run(store,
                                                                                      "report.html")
    assert f"sent to {RUN}: " in capfd.readouterr().err
    evaluate(RUN)
    assert json.loads(in_run(store, "results.json"))["step"] == 2
    # what was copied here is not sent back
    assert {name for name in store if "/checkpoints/" in name} == before
    assert not any(part.startswith(".") or part.endswith((".tmp", ".partial")) for name in store
                   for part in name.split("/"))


def test_interrupted_evaluation_leaves_no_results_and_goes_on(store, evaluate, monkeypatch):
    from eval.run import rows

    put, done = rows.Rows.put, []

    def interrupted(self, key, *row):
        if len(done) == 4:
            raise KeyboardInterrupt
        done.append(key)
        put(self, key, *row)

    with monkeypatch.context() as patch:
        patch.setattr(rows.Rows, "put", interrupted)
        with pytest.raises(KeyboardInterrupt):
            evaluate(RUN)
    assert not {"bucket/runs/toy/results.json", "bucket/runs/toy/report.html"} & set(store)
    scored = in_run(store, rows.ROWS_FILE)
    assert [json.loads(line)["key"] for line in scored.splitlines()] == done
    evaluate(RUN)
    assert len(json.loads(in_run(store, "results.json"))["rows"]) == 3
    assert in_run(store, rows.ROWS_FILE).startswith(scored)  # those four were not scored again
    assert len(in_run(store,
                      rows.ROWS_FILE).splitlines()) == len(set(in_run(store,
                                                                      rows.ROWS_FILE).splitlines()))


def test_shares_meet_in_the_bucket(store, evaluate, monkeypatch, capfd):
    """Each works in a copy of its own; the last one finds the others' rows."""
    monkeypatch.setattr(lock, "SETTLE", 0.0)
    evaluate(RUN, shard="1/2")
    assert "share 1 of 2 is scored" in capfd.readouterr().out
    assert "bucket/runs/toy/results.json" not in store
    scored = in_run(store, "results.rows.1-of-2.jsonl")
    assert len(scored.splitlines()) == 4  # the second of three examples
    evaluate(RUN, shard="0/2")
    assert in_run(store, "results.rows.1-of-2.jsonl") == scored
    assert len(json.loads(in_run(store, "results.json"))["rows"]) == 3
    assert b"<video" in in_run(store, "report.html")
    assert not any(name.endswith(".lock") for name in store)


def test_results_that_cannot_be_sent_are_kept_here(store, evaluate, monkeypatch):
    def sends_nothing(source, target, copy=remote.paths.copy_in):
        if remote.paths.is_remote(target):
            raise RuntimeError("503 Service Unavailable")
        copy(source, target)

    monkeypatch.setattr(remote.paths, "copy_in", sends_nothing)
    with pytest.raises(UserError, match=f"results could not be sent; where: {RUN}.*503.*they are "
                                        "in ") as error:
        evaluate(RUN)
    kept = Path(str(error.value).split("they are in ")[1])
    assert json.loads((kept
                       / "results.json").read_text())[
                           "step"] == 2 and "bucket/runs/toy/results.json" not in store


def test_what_is_not_there_is_one_line(store, evaluate, monkeypatch):
    for checkpoint in ("gs://bucket/none", f"{RUN}/checkpoints/9"):
        with pytest.raises(UserError, match=f"no checkpoint here; where: {checkpoint}; .*no such "
                                            "folder"):
            evaluate(checkpoint)
    with pytest.raises(UserError, match="a path of this machine is needed; where: --out; found: "
                                        "gs://bucket/out"):
        evaluate(RUN, out="gs://bucket/out")
    for workdir, step, message in (("gs://bucket/none", -1, "no checkpoint here; where: "
                                                            "gs://bucket/none"),
                                   (RUN, 9,
                                    "no such checkpoint.*one of the steps .1, 2.; found: 9")):
        given = {name: field.kind() for name, (field, _) in prompting.inputs().items()} | dict(
            workdir=workdir, out="", requests="", step=step, seed=0, steps=0, guidance=None,
            temperature=None, vocoder="", geometry="", length_scale=None, token_temperature=None,
            stream=False, format="", save_latents=False)
        given |= dict.fromkeys(generate.STREAM, -1)
        monkeypatch.setattr(generate, "flags",
                            types.SimpleNamespace(FLAGS=types.SimpleNamespace(**given)))
        with pytest.raises(UserError, match=message):
            generate.main([])
    monkeypatch.setattr(paths, "EXTRAS", {"gs": "no_such_package"})
    with pytest.raises(UserError, match=r"gs:// cannot be read without no_such_package.*pip "
                                        r"install 'avjax\[gs\]'"):
        evaluate(RUN)
