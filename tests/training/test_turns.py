"""A step in turns: against updates by hand, with micro-batches, late turns, and resumed to the
bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax.errors import UserError
from avjax.sharding.mesh import make_mesh
from avjax.systems.api import Turn
from avjax.training.loop import train
from avjax.training.optimizer import make_optimizer
from avjax.training.step import make_train_step
from tests.training import toy

KEY = jax.random.key(0)


class Rivals(toy.ToySystem):
    """"maker" makes y of x, "judge" tells it from the true one; the judge goes first."""

    param_rules = ((r".*", ()),)

    def __init__(self, config=None, begins: int = 0):
        super().__init__(config)
        self.turns = (Turn("judging", ("judge",), begins), Turn("making", ("maker",)))

    def init(self, key):
        keys = jax.random.split(key)
        return {"maker": {"kernel": jax.random.normal(keys[0], (toy.WIDTH, toy.WIDTH)) / 3},
                "judge": {"kernel": jax.random.normal(keys[1], (toy.WIDTH, 1)) / 3}}

    def shared(self, params, batch, key):
        return jnp.tanh(batch["x"] @ params["maker"]["kernel"])

    def turn_loss(self, turn, params, shared, batch, key, step):
        def mean(x):
            return jnp.sum(x[..., 0] * batch["mask"]) / jnp.sum(batch["mask"])

        judge = params["judge"]["kernel"]
        if turn == "judging":
            loss = mean((1 - batch["y"] @ judge) ** 2 + (shared @ judge) ** 2)
            return loss, {"told": loss}
        loss = mean((1 - shared @ judge) ** 2) + jnp.where(step >= 2, 0.5, 0.0) * mean(shared**2)
        return loss, {"fooled": loss}

    def loss(self, params, batch, key):
        return self.turn_loss("making", params, self.shared(params, batch, key), batch, key,
                              jnp.int32(0))


def run(system, steps, *, accumulate=1, guard=False, batch=None, **values):
    values = {"name": "sgd", "b1": 0.0, "learning_rate": 0.1} | values
    config = toy.config(**{f"optimizer.{k}": v for k, v in values.items()})
    params = system.init(KEY)
    optimizer = make_optimizer(config.optimizer, 10, params, system.turns)
    state = {"step": jnp.zeros((), jnp.int32), "params": params,
             "opt_state": optimizer.transform.init(params)}
    step = jax.jit(make_train_step(system, optimizer, seed=0, accumulate=accumulate, guard=guard))
    batch = batch or {k: v for k, v in next(toy.ToyLoader(8)).items() if k != "example"}
    history = [state]
    with jax.set_mesh(make_mesh({"data": 1}, jax.devices()[:1])):
        for _ in range(steps):
            state, metrics = step(state, batch)
            history.append(state)
    return history, metrics, batch


def kernels(state):
    return {name: np.asarray(p["kernel"]) for name, p in state["params"].items()}


def test_each_turn_sees_what_the_turns_before_have_left():
    system = Rivals()
    (before, after), metrics, batch = run(system, 1, turn_rates=(("judging", 0.5),))
    params = before["params"]
    made = system.shared(params, batch, KEY)

    def loss(turn):
        return lambda params, made: system.turn_loss(turn, params, made, batch, KEY, 0)[0]

    judged = jax.grad(loss("judging"))(params, made)["judge"]["kernel"]
    judge = params["judge"]["kernel"] - 0.05 * judged
    changed = {"maker": params["maker"], "judge": {"kernel": judge}}
    wanted = jax.grad(lambda maker: loss("making")(
        changed | {"maker": maker}, system.shared({"maker": maker}, batch, KEY)))(params["maker"])
    np.testing.assert_allclose(kernels(after)["judge"], judge, atol=1e-6)
    np.testing.assert_allclose(kernels(after)["maker"],
                               params["maker"]["kernel"] - 0.1 * wanted["kernel"], atol=1e-6)
    assert {"judging/loss", "making/loss", "judging/grad_norm", "told", "fooled",
            "making/update_norm"} <= metrics.keys()
    assert metrics["loss"] == metrics["making/loss"] == metrics["fooled"]


def test_each_group_is_clipped_by_its_own_norm():
    (before, after), metrics, _ = run(Rivals(), 1, clip_norm=0.01)
    assert metrics["judging/grad_norm"] > 0.01 < metrics["making/grad_norm"]
    for name, old in kernels(before).items():
        assert np.linalg.norm(kernels(after)[name] - old) == pytest.approx(1e-3, rel=1e-3)


def test_micro_batches_give_the_large_batch():
    whole, parts = (run(Rivals(), 2, accumulate=n)[0][-1] for n in (1, 4))
    for name, value in kernels(whole).items():
        np.testing.assert_allclose(kernels(parts)[name], value, rtol=1e-5, atol=1e-6)


def test_a_turn_that_begins_later_leaves_its_group_and_its_moments_alone():
    history, _, _ = run(Rivals(begins=2), 4, name="adamw", b1=0.9)
    judges = [kernels(state)["judge"] for state in history]
    assert (judges[0] == judges[2]).all() and (judges[2] != judges[3]).any()
    counts = [int(jax.tree.leaves(state["opt_state"]["judging"])[0]) for state in history]
    assert counts == [0, 0, 0, 1, 2]
    makers = [kernels(state)["maker"] for state in history]
    assert (makers[0] != makers[1]).any()


def test_what_is_not_finite_in_one_turn_changes_nothing():
    spoilt = {k: v for k, v in next(toy.ToyLoader(8)).items() if k != "example"}
    spoilt["y"] = spoilt["y"] + np.nan  # which only the judge sees directly
    (before, after), metrics, _ = run(Rivals(), 1, guard=True, batch=spoilt)
    assert metrics["skipped"] == 1
    jax.tree.map(np.testing.assert_array_equal, before["params"], after["params"])


def test_frozen_parameters_stay_and_unknown_turns_are_refused():
    before, after = run(Rivals(), 1, frozen=("judge/.*",))[0]
    assert (kernels(before)["judge"] == kernels(after)["judge"]).all()
    assert (kernels(before)["maker"] != kernels(after)["maker"]).any()
    with pytest.raises(UserError, match="no such turn.*judging or making.*'?judgin"):
        run(Rivals(), 1, turn_rates=(("judgin", 2.0),))


def test_a_job_resumes_to_the_bit(tmp_path):
    config = toy.config(**{"train.steps": 6, "train.checkpoint_every": 3, "optimizer.b1": 0.5,
                           "train.evaluate_every": 0, "optimizer.clip_norm": 1.0,
                           "optimizer.ema_decay": 0.9, "optimizer.schedule": "exponential",
                           "optimizer.decay": 0.5, "mesh.data": 1})

    def job(folder, steps):
        config.train.steps = steps
        mesh = make_mesh({"data": 1}, jax.devices()[:1])
        return train(config, Rivals(), tmp_path / folder, lambda: toy.ToyLoader(8), mesh=mesh)

    once = job("once", 6)
    job("twice", 3)
    twice = job("twice", 6)
    jax.tree.map(np.testing.assert_array_equal, once.state, twice.state)
    assert int(once.state["step"]) == 6
