import os
import signal
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax.checkpoint import checkpoints
from avjax.checkpoint.checkpoints import Checkpoints
from avjax.checkpoint.files import saved_shapes
from avjax.checkpoint.loading import load_params
from avjax.errors import UserError
from avjax.sharding.mesh import make_mesh
from avjax.sharding.rules import named_leaves
from avjax.training import loop
from avjax.training.evaluators import HeldOutLoss
from tests.training import toy
from tests.workdirs import records, steps


class Recorder:
    """An evaluator with a scripted metric, which notes what it was shown."""

    def __init__(self, values=(), *, name="valid", every=3):
        self.values, self.seen, self.name, self.every = dict(values), [], name, every

    def run(self, params, step):
        self.seen.append((step, float(params["scale"])))
        image = np.zeros((4, 5, 3), np.uint8)
        return {"loss": self.values.get(step, 1.0)}, {"images": {"face": image},
                                                      "audio":
                                                      {"voice": (np.zeros(100, np.float32), 22050)},
                                                      "text": {"words": "hello"}}


def one_device():
    return make_mesh(dict(data=1), jax.devices()[:1])


def run(workdir, config=None, *, system=None, spoil=None, evaluators=(), mesh=None, **overrides):
    config = config or toy.config(**overrides)
    return loop.train(config, system or toy.ToySystem(noise=0.1), workdir,
                      lambda: toy.ToyLoader(8, spoil=spoil), evaluators, {"system": "toy"},
                      mesh or one_device())


def assert_same(a, b):
    for (name, x), (_, y) in zip(named_leaves(a), named_leaves(b), strict=True):
        np.testing.assert_array_equal(x, y, err_msg=name)


def test_run_and_resume_equal_one_run_and_order_is_evaluate_save_batch_step(tmp_path):
    recorder = Recorder()
    whole = run(tmp_path / "a", evaluators=[recorder], **{"optimizer.ema_decay": 0.5})
    assert [step for step, _ in recorder.seen] == [3, 6] and steps(tmp_path / "a") == [3, 6]
    assert recorder.seen[1][1] == float(whole.state["ema"]["scale"]) != float(
        whole.state["params"]["scale"])
    # saved before batch 3 is taken
    assert checkpoints.load_meta(tmp_path / "a", 3)["data"] == {"next_index": 3}

    run(tmp_path / "b", **{"optimizer.ema_decay": 0.5, "train.steps": 3})
    resumed = run(tmp_path / "b", **{"optimizer.ema_decay": 0.5})
    assert_same(whole.state, resumed.state)
    timing = {"steps_per_second", "mfu"}
    a, b = ([{k: v for k, v in r.items() if k not in timing} for r in records(tmp_path / d)]
            for d in "ab")
    assert a == b and [r["step"] for r in a] == [1, 2, 3, 4, 5, 6]
    assert len({r["batch_id"] for r in a}) == 6
    assert {"loss", "error", "size", "grad_norm", "update_norm", "learning_rate"} <= a[0].keys()


@pytest.mark.slow
def test_values_do_not_depend_on_the_mesh(tmp_path):
    one = run(tmp_path / "one")
    many = run(tmp_path / "many", mesh=make_mesh(dict(data=2, fsdp=2, tensor=2)))
    assert many.state["params"]["hidden"]["kernel"].sharding.spec == jax.sharding.PartitionSpec(
        "fsdp", "tensor")
    for a, b in zip(records(tmp_path / "one"), records(tmp_path / "many"), strict=True):
        assert a["batch_id"] == b["batch_id"] and a["loss"] == pytest.approx(b["loss"], rel=1e-6)
    start = checkpoints.load_params(tmp_path / "many", toy.ToySystem())
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), start,
                 one.params)


@pytest.mark.slow
def test_restart_on_another_mesh(tmp_path):
    run(tmp_path / "a")
    run(tmp_path / "b", mesh=make_mesh(dict(data=8)), **{"train.steps": 3})
    state = run(tmp_path / "b", mesh=make_mesh(dict(data=2, fsdp=2, tensor=2)),
                **{"optimizer.whole_params": True}).state
    places = {"/".join(map(str, path)): x.sharding.spec for path, x in
              jax.tree_util.tree_leaves_with_path(state) if "hidden" in str(path) and x.ndim == 2}
    whole = jax.sharding.PartitionSpec(None, "tensor")
    assert [spec == whole for name, spec in places.items()] == ["params" in name for name in places]
    assert len(places) == 3  # the parameter and two averages of its gradients
    for a, b in zip(records(tmp_path / "a"), records(tmp_path / "b"), strict=True):
        assert a["batch_id"] == b["batch_id"] and a["loss"] == pytest.approx(b["loss"], rel=1e-6)


def nan_target(batch):
    return batch | {"y": np.full_like(batch["y"], np.nan)}


def test_nan_stops_with_step_term_and_last_checkpoint(tmp_path):
    with pytest.raises(UserError) as error:
        run(tmp_path, spoil={4: nan_target})
    for word in ("step 5", "term 'error'", "last good checkpoint: step 3"):
        assert word in str(error.value)
    assert steps(tmp_path) == [3]
    state = run(tmp_path).state  # the data is mended: training goes on from there
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))


def test_nan_in_the_last_step_before_a_save_is_never_saved(tmp_path):
    with pytest.raises(UserError, match="step 3"):
        run(tmp_path, spoil={2: nan_target})
    assert steps(tmp_path) == []


def test_nan_skip_leaves_the_state_and_reports(tmp_path):
    overrides = {"train.nan_policy": "skip", "optimizer.ema_decay": 0.5,
                 "optimizer.learning_rate": 0.0}
    skipped = run(tmp_path / "a", spoil={1: nan_target, 3: nan_target}, **overrides)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(skipped.state))
    assert [r["step"] for r in records(tmp_path / "a", "not_finite")] == [2, 4]
    assert "error" in records(tmp_path / "a", "not_finite")[0]["terms"]
    assert [r["skipped"] for r in records(tmp_path / "a")] == [0, 1, 0, 1, 0, 0]
    count = next(x for name, x in named_leaves(skipped.state["opt_state"])
                 if name.endswith("count"))
    # moments saw four gradients, data went on
    assert int(count) == 4 and int(skipped.state["step"]) == 6


def test_skipping_gives_up(tmp_path):
    with pytest.raises(UserError, match="step 5.*3 steps in a row"):
        run(tmp_path, spoil={k: nan_target for k in range(2, 9)},
            **{"train.nan_policy": "skip", "train.max_skips": 2, "train.steps": 9})


def test_last_and_best_checkpoints_are_kept(tmp_path):
    values = {3: 0.5, 6: 0.2, 9: 0.9, 12: 0.4, 15: 0.8}
    run(tmp_path, evaluators=[Recorder(values)], **{"train.steps": 9, "train.keep_last": 1})
    assert steps(tmp_path) == [6, 9]
    # ranks survive restarts
    run(tmp_path, evaluators=[Recorder(values)], **{"train.steps": 15, "train.keep_last": 1})
    assert steps(tmp_path) == [6, 15]
    assert checkpoints.resolve(tmp_path,
                               "best").name == "6" and checkpoints.resolve(tmp_path).name == "15"
    run(tmp_path / "max", evaluators=[Recorder(values)],
        **{"train.steps": 15, "train.keep_last": 1, "train.keep_best": 2, "train.best_mode": "max"})
    assert steps(tmp_path / "max") == [9, 15]


def test_a_metric_that_nobody_measures_costs_no_step(tmp_path):
    with pytest.raises(UserError, match="config.train.best_metric; expected: valid/loss; found: "
                                        "'F1'.*step 3 is saved"):
        run(tmp_path, evaluators=[Recorder()],
            **{"train.best_metric": "F1", "train.checkpoint_every": 100})
    assert steps(tmp_path) == [3]


def test_only_what_is_measured_at_its_step_ranks_a_checkpoint(tmp_path):
    often, seldom = Recorder(name="often"), Recorder({6: 0.5, 12: 0.9, 15: 0.8}, every=6)
    run(tmp_path, evaluators=[often, seldom],
        **{"train.steps": 15, "train.keep_last": 1, "train.keep_best": 2,
           "train.best_metric": "valid/loss"})
    assert steps(tmp_path) == [6, 15] and len(often.seen) == 5


def test_zero_turns_records_and_saves_of_every_so_many_steps_off(tmp_path):
    run(tmp_path, **{"train.log_every": 0, "train.checkpoint_every": 0})
    assert [r["step"] for r in records(tmp_path)] == [1, 6] and steps(tmp_path) == [6]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_saves_and_exits_restartable(tmp_path, number):
    def ask(batch):
        os.kill(os.getpid(), number)
        return batch

    assert threading.current_thread() is threading.main_thread()
    before = signal.getsignal(number)
    with pytest.raises(loop.Preempted) as stopped:
        run(tmp_path, spoil={4: ask}, **{"train.checkpoint_every": 100, "train.steps": 50})
    assert stopped.value.code == loop.RESTARTABLE == 75
    assert steps(tmp_path) == [stopped.value.step] and 0 < stopped.value.step < 50
    assert signal.getsignal(number) is before
    run(tmp_path, **{"train.steps": 12})
    run(tmp_path / "whole", **{"train.steps": 12})
    assert [r["loss"] for r in records(tmp_path)] == [r["loss"]
                                                      for r in records(tmp_path / "whole")]


def test_compiling_inside_the_loop_is_an_error(tmp_path, monkeypatch):
    original = loop.CompiledStep.__call__

    def sloppy(self, state, batch):
        jax.jit(lambda x: x + len(tmp_path.parts) + int(state["step"]))(np.float32(0))
        return original(self, state, batch)

    monkeypatch.setattr(loop.CompiledStep, "__call__", sloppy)
    with pytest.raises(RuntimeError, match="compiled inside step 1"):
        run(tmp_path)


def test_batch_of_another_shape_is_named(tmp_path):
    with pytest.raises(UserError, match=r"batch\['x'\].*\(8, 6, 8\).*\(8, 5, 8\)"):
        run(tmp_path, spoil={1: lambda b: b | {"x": b["x"][:, :5]}})


def test_loader_errors_reach_the_caller(tmp_path):
    def fail(batch):
        raise UserError("corrupt record", where="shard 7")

    with pytest.raises(UserError, match="corrupt record; where: shard 7"):
        run(tmp_path, spoil={2: fail})


def test_bad_settings_are_refused_before_anything_is_written(tmp_path):
    for overrides, word in (({"data.batch_size": 9}, "batch does not divide"),
                            ({"train.nan_policy": "hope"}, "stop"),
                            ({"optimizer.accumulate": 3}, "accumulate 3"),
                            ({"mesh.data": 3}, "mesh does not divide")):
        with pytest.raises(UserError, match=word):
            loop.train(toy.config(**overrides), toy.ToySystem(), tmp_path / "x",
                       lambda: toy.ToyLoader(8))
        assert not (tmp_path / "x").exists()


def test_held_out_loss_is_fixed_and_weighted_by_frames(tmp_path):
    system, loader = toy.ToySystem(), toy.ToyLoader(8, seed=5)
    batches = [next(loader) for _ in range(2)]
    params = jax.jit(system.init)(jax.random.key(0))
    evaluator = HeldOutLoss(system, batches, one_device(), every=1)
    first = evaluator.run(params, 1)
    assert first == evaluator.run(params, 2)
    joined = {k: np.concatenate([b[k] for b in batches]) for k in ("x", "y", "mask")}
    _, whole = jax.jit(system.loss)(params, joined, jax.random.key(0))
    assert first["error"] == pytest.approx(float(whole["error"]), rel=1e-5)
    assert set(first) == {"loss", "error", "size"}


def test_held_out_loss_is_weighted_like_training_where_a_system_says_how():
    class System(toy.ToySystem):
        def loss(self, params, batch, key):
            return batch["x"][0, 0, 0], {"weight": batch["x"][0, 0, 1]}

    batches = [{"x": np.full((8, 6, 8), 1.0), "y": np.zeros((8, 6, 8)), "mask": np.ones((8, 6))}
               for _ in range(2)]
    batches[0]["x"][0, 0, :2], batches[1]["x"][0, 0, :2] = (3, 1), (5, 3)
    assert HeldOutLoss(System(), batches, one_device(),
                       every=1).run({}, 1) == {"loss": 0.25 * 3 + 0.75 * 5}


def test_report_events_and_profile(tmp_path, capfd):
    result = run(tmp_path, evaluators=[Recorder()],
                 **{"train.profile_at": 2, "train.profile_steps": 2})
    err = capfd.readouterr().err
    for word in ("parameters", "hidden", "145", "memory a device", "8 examples x 6 frames",
                 "data 1 x fsdp 1",
                 "FLOPs a step", "configured", "trained to step 6"):
        assert word in err
    assert {"data wait", "step", "evaluation", "checkpoint", "compile",
            "total"} <= result.seconds.keys()
    assert sum(v for k, v in result.seconds.items() if k
               != "total") == pytest.approx(result.seconds["total"])
    assert result.metrics == {"valid/loss": 1.0}
    assert list((tmp_path / "tensorboard").glob("events*")) and list((tmp_path
                                                                      / "profile").rglob(
                                                                          "*.xplane.pb"))
    data = b"".join(p.read_bytes() for p in (tmp_path / "tensorboard").glob("events*"))
    for tag in (b"train/loss", b"valid/face", b"valid/voice", b"valid/words"):
        assert tag in data


def test_warm_start_takes_what_is_asked_and_resumes_from_its_own(tmp_path):
    first = run(tmp_path / "stage1", **{"optimizer.ema_decay": 0.5})
    settings = {"train.init_from": str(tmp_path / "stage1"), "train.init_include": (r"hidden/.*",),
                "seed": 7,
                "optimizer.learning_rate": 0.0, "optimizer.ema_decay": 0.5}
    second = run(tmp_path / "stage2", mesh=make_mesh(dict(data=1, fsdp=2), jax.devices()[:2]),
                 **settings)
    fresh = run(tmp_path / "fresh", **settings | {"train.init_from": ""})
    # the average, on another mesh
    assert_same(second.state["params"]["hidden"], first.params["hidden"])
    assert_same(second.state["params"]["out"], fresh.state["params"]["out"])
    for (_, x), (_, y) in zip(named_leaves(second.state["ema"]),
                              named_leaves(second.state["params"]), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-6)
    assert second.step == 6 and int(second.state["step"]) == 6
    # not read again
    again = run(tmp_path / "stage2", **settings | {"train.steps": 7, "train.init_from": "nowhere"})
    assert again.step == 7


def test_frozen_parameters_have_no_average_and_may_be_kept_in_16_bits(tmp_path):
    settings = {"optimizer.ema_decay": 0.5, "optimizer.frozen": ("hidden/.*",),
                "optimizer.frozen_dtype": "bfloat16"}
    whole = run(tmp_path / "a", **settings)
    dtypes = {name: x.dtype for name, x in named_leaves(whole.state["params"])}
    assert dtypes.pop("hidden/kernel") == jnp.bfloat16
    assert set(dtypes.values()) == {np.dtype("float32")}
    assert {name for name, _ in named_leaves(whole.state["ema"])} == {"out/kernel", "out/bias",
                                                                     "scale"}
    run(tmp_path / "b", **settings | {"train.steps": 3})
    assert_same(whole.state, run(tmp_path / "b", **settings).state)

    # generation and a warm start read averages and frozen parameters, in 32 bits
    expected = whole.state["params"] | whole.state["ema"]
    expected["hidden"] = jax.tree.map(lambda x: x.astype(jnp.float32), expected["hidden"])
    assert_same(load_params(tmp_path / "a", toy.ToySystem()), expected)
    warm = run(tmp_path / "c", **{"train.init_from": str(tmp_path / "a"), "train.steps": 0})
    assert_same(warm.state["params"], expected)


def test_a_checkpoint_that_averages_frozen_parameters_too_is_resumed(tmp_path, monkeypatch):
    """As they were saved before the average was of trainable ones alone."""
    settings = {"optimizer.ema_decay": 0.5, "optimizer.frozen": ("hidden/.*",)}
    whole = run(tmp_path / "a", **settings)
    before = Checkpoints.save
    monkeypatch.setattr(Checkpoints, "save", lambda self, step, state, *args, **kw: before(
        self, step, state | {"ema": {"hidden": state["params"]["hidden"]} | state["ema"]},
        *args, **kw))
    run(tmp_path / "b", **settings | {"train.steps": 3})
    monkeypatch.undo()
    assert "ema/hidden/kernel" in saved_shapes(tmp_path / "b" / "checkpoints" / "3")
    resumed = run(tmp_path / "b", **settings)
    assert_same(whole.state, resumed.state)
    assert_same(load_params(tmp_path / "b", toy.ToySystem(), step=3)["hidden"],
                whole.state["params"]["hidden"])


def test_warm_start_of_a_part_from_the_subtree_of_another_job(tmp_path):
    first = run(tmp_path / "part", **{"train.steps": 3})
    settings = {"optimizer.learning_rate": 0.0, "train.steps": 1, "seed": 7,
                "optimizer.ema_decay": 0.5}
    fresh = run(tmp_path / "fresh", **settings)
    both = run(tmp_path / "whole", **settings,
               **{"train.init_parts": (("out", str(tmp_path / "part"), "out"),)})
    assert_same(both.state["params"]["out"], first.params["out"])
    np.testing.assert_allclose(both.state["ema"]["out"]["kernel"], first.params["out"]["kernel"],
                               rtol=1e-6)
    assert_same(both.state["params"]["hidden"], fresh.state["params"]["hidden"])
    crossed = run(tmp_path / "crossed", **settings,
                  **{"train.init_parts": (("out", str(tmp_path / "part"), "hidden"),)})
    assert_same(crossed.state["params"]["out"], first.params["hidden"])
    with pytest.raises(UserError, match="none of these parameters.*elsewhere"):
        run(tmp_path / "wrong", **settings,
            **{"train.init_parts": (("out", str(tmp_path / "part"), "elsewhere"),)})


@pytest.mark.parametrize("settings, message", [
    ({"train.init_from": "nowhere"}, "no checkpoint here.*nowhere"),
    ({"train.init_include": ("nothing",)}, "none of these parameters.*nothing.*hint"),
    ({}, r"another shape.*hidden/bias.*\(12,\).*\(8,\)"),
])
def test_warm_starts_that_cannot_be(tmp_path, settings, message):
    run(tmp_path / "stage1", **{"train.steps": 3})
    with pytest.raises(UserError, match=message):
        run(tmp_path / "stage2", system=toy.ToySystem(width=12),
            **{"train.init_from": str(tmp_path / "stage1")} | settings)
    assert not (tmp_path / "stage2" / "checkpoints").exists() or not steps(tmp_path / "stage2")
