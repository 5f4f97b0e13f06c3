import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax.errors import UserError
from avjax.sharding.mesh import make_mesh
from avjax.systems import api
from avjax.training.optimizer import ema_decay_at, make_optimizer, make_schedule
from avjax.training.step import make_train_step
from tests.training import toy


def options(**values):
    return toy.config(**{f"optimizer.{k}": v for k, v in values.items()}).optimizer


def fresh(system, optimizer, *, ema=False):
    params = system.init(jax.random.key(0))
    state = {"step": jnp.zeros((), jnp.int32), "params": params,
             "opt_state": optimizer.transform.init(params)}
    return state | ({"ema": params} if ema else {})


def one_step(*, batch=None, system=None, ema=0.0, accumulate=1, steps=1, **values):
    system = system or toy.ToySystem()
    optimizer = make_optimizer(options(**values), 10,
                               api.abstract_params(system))
    state = before = fresh(system, optimizer, ema=ema > 0)
    step = jax.jit(make_train_step(system, optimizer, seed=0, accumulate=accumulate, ema_decay=ema),
                   # compiling is most of the time here
                   compiler_options={"xla_backend_optimization_level": "0"})
    loader = toy.ToyLoader(8)
    history = [state]
    with jax.set_mesh(make_mesh(dict(data=2), jax.devices()[:2])):
        for _ in range(steps):
            b = dict(next(loader)) if batch is None else dict(batch)
            b.pop("example", None)
            state, metrics = step(state, b)
            history.append(state)
    return before, state, metrics, history


@pytest.mark.parametrize("schedule, step, expected", [
    ("constant", 0, 0.25), ("constant", 3, 1.0), ("constant", 50, 1.0),
    ("cosine", 4, 1.0), ("cosine", 12, 0.55), ("cosine", 20, 0.1), ("cosine", 99, 0.1),
    ("linear", 12, 0.55), ("linear", 16, 0.325), ("linear", 20, 0.1),
    ("rsqrt", 1, 0.5), ("rsqrt", 3, 1.0), ("rsqrt", 15, 0.5),
])
def test_schedules(schedule, step, expected):
    f = make_schedule(options(schedule=schedule, learning_rate=2.0, warmup_steps=4,
                              final_fraction=0.1), 20)
    assert float(f(step)) == pytest.approx(2 * expected, rel=1e-5)


def test_unknown_names_and_dead_patterns():
    params = api.abstract_params(toy.ToySystem())
    for values, word in ((dict(name="adamv"), "adamw"), (dict(schedule="cosin"), "cosine"),
                         (dict(frozen=("hiden/.*",)), "hiden"),
                         (dict(schedule="rsqrt"), "warm-up")):
        with pytest.raises(UserError, match=word):
            make_optimizer(options(**values), 10, params)


def test_weight_decay_spares_masked_parameters():
    quiet = dict(next(toy.ToyLoader(8)), mask=np.ones((8, toy.FRAMES), np.float32))
    plain = one_step(batch=quiet, name="sgd", b1=0.0, learning_rate=0.1)[1]["params"]
    before, after, _, _ = one_step(batch=quiet, name="sgd", b1=0.0, learning_rate=0.1,
                                   weight_decay=0.5)
    decayed = after["params"]
    np.testing.assert_allclose(decayed["hidden"]["kernel"],
                               plain["hidden"]["kernel"] - 0.05
                               * before["params"]["hidden"]["kernel"], atol=1e-6)
    np.testing.assert_array_equal(decayed["hidden"]["bias"], plain["hidden"]["bias"])


def test_adamw_first_update_by_hand():
    before, after, metrics, _ = one_step(learning_rate=0.01, eps=0.0)
    change = np.asarray(after["params"]["out"]["kernel"] - before["params"]["out"]["kernel"])
    # m / sqrt(v) is the gradient's sign
    np.testing.assert_allclose(np.abs(change), 0.01, rtol=1e-3)
    assert float(metrics["learning_rate"]) == pytest.approx(0.01)
    count = sum(x.size for x in jax.tree.leaves(before["params"]))
    assert float(metrics["update_norm"]) == pytest.approx(0.01 * np.sqrt(count), rel=1e-3)


def test_clipping_bounds_the_direction_and_reports_the_true_norm():
    _, _, loose, _ = one_step(name="sgd", b1=0.0, learning_rate=1.0)
    _, _, tight, _ = one_step(name="sgd", b1=0.0, learning_rate=1.0, clip_norm=0.01)
    assert float(loose["grad_norm"]) > 0.1
    assert float(tight["grad_norm"]) == pytest.approx(float(loose["grad_norm"]))
    assert float(tight["update_norm"]) == pytest.approx(0.01, rel=1e-4)


@pytest.mark.parametrize("name",
                         ["adamw", "adafactor", "muon",
                          pytest.param("lion", marks=pytest.mark.slow),
                          pytest.param("sgd", marks=pytest.mark.slow)])
def test_frozen_parameters_stay_with_every_algorithm_and_hold_no_moments(name):
    before, after, metrics, _ = one_step(name=name, frozen=("hidden/.*",), weight_decay=0.1,
                                         clip_norm=1.0, steps=3)
    for key in ("kernel", "bias"):
        np.testing.assert_array_equal(after["params"]["hidden"][key],
                                      before["params"]["hidden"][key])
    assert np.abs(after["params"]["out"]["kernel"] - before["params"]["out"]["kernel"]).max() > 0
    free = one_step(name=name, weight_decay=0.1, clip_norm=1.0)[1]
    saved = {"adamw": 4, "lion": 2, "sgd": 2, "adafactor": 6, "muon": 3}[name]  # two frozen arrays
    assert len(jax.tree.leaves(after["opt_state"])) == len(
        jax.tree.leaves(free["opt_state"])) - saved


def test_average_follows_the_recursion():
    _, _, _, history = one_step(ema=0.3, steps=4)
    average = np.asarray(history[0]["params"]["scale"])
    for t, state in enumerate(history[1:]):
        decay = min(0.3, (1 + t) / (10 + t))
        average = decay * average + (1 - decay) * np.asarray(state["params"]["scale"])
    np.testing.assert_allclose(history[-1]["ema"]["scale"], average, rtol=1e-6)
    assert float(ema_decay_at(0.3, 0)) == pytest.approx(0.1)
    assert float(ema_decay_at(0.3, 1000)) == pytest.approx(0.3)


@pytest.mark.parametrize("accumulate", [2, 4])
def test_micro_batches_give_the_large_batch_though_masks_differ(accumulate):
    batch = dict(next(toy.ToyLoader(8)))
    assert len(set(batch["mask"].sum(1))) > 1
    _, big, one, _ = one_step(batch=batch, name="sgd", b1=0.0, learning_rate=1.0)
    _, small, many, _ = one_step(batch=batch, name="sgd", b1=0.0, learning_rate=1.0,
                                 accumulate=accumulate)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), big["params"],
                 small["params"])
    for name in one:
        assert float(one[name]) == pytest.approx(float(many[name]), rel=1e-5), name


def test_each_step_has_its_own_noise():
    batch = dict(next(toy.ToyLoader(8)))
    system = toy.ToySystem(noise=1.0)
    losses = [float(one_step(batch=batch, system=system, learning_rate=0.0, steps=n)[2]["loss"])
              for n in (1, 2)]
    again = float(one_step(batch=batch, system=system, learning_rate=0.0, steps=2)[2]["loss"])
    assert losses[0] != losses[1] == again
