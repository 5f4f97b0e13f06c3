"""A job whose mesh splits time: the loop with micro-batches and its evaluation, and generation of
lengths that do not divide."""

import json

import jax
import numpy as np
import pytest

from avjax.errors import UserError
from avjax.sharding.mesh import make_mesh
from avjax.sharding.rules import param_shardings
from avjax.training import loop
from avjax.training.evaluators import HeldOutLoss
from tests.sharding.small_systems import SYSTEMS
from tests.sharding.test_mesh_systems import FAST, random_params
from tests.training import toy

MIXED = dict(data=2, seq=2, tensor=2)


def losses(workdir, mesh, **settings):
    config, system = toy.config(**{"optimizer.accumulate": 2,
                                   "train.steps": 3} | settings), toy.ToySystem(noise=0.1)
    held_out = HeldOutLoss(system, [next(toy.ToyLoader(8, seed=5))], mesh, every=3)
    loop.train(config, system, workdir, lambda: toy.ToyLoader(8), [held_out], {"system": "toy"},
               mesh)
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [r["loss"] for r in records if r["kind"] in ("train", "valid")]


def test_a_job_that_splits_time_and_batch_is_the_same_job(tmp_path):
    one = losses(tmp_path / "one", make_mesh(dict(data=1), jax.devices()[:1]))
    split = losses(tmp_path / "split", make_mesh(MIXED))
    assert len(one) == 4
    np.testing.assert_allclose(split, one, rtol=1e-5)


def test_a_segment_that_does_not_divide_stops_the_job_before_anything_is_written(tmp_path):
    with pytest.raises(UserError, match="multiple of 4 = config.mesh.seq 4, for instance 4 or 8; "
                                        "found: 6.*config.data.segment"):
        losses(tmp_path / "job", make_mesh(dict(data=2, seq=4)))
    assert not (tmp_path / "job").exists()


def generated(system, params, conditions, sizes, task):
    mesh = make_mesh(sizes) if sizes else make_mesh(dict(data=1), jax.devices()[:1])
    keys = jax.random.split(jax.random.key(3), len(next(iter(conditions.values()))))
    with jax.set_mesh(mesh):
        params = jax.device_put(params, param_shardings(params, system.param_rules, mesh))
        run = jax.jit(system.generate, static_argnames="task", compiler_options=FAST)
        return jax.device_get(run(params, conditions, keys, task=task))


def conditions_of(name, system, small):
    rng = np.random.default_rng(1)
    if name == "avflow":  # 37 frames of 3 examples
        given = {n: rng.standard_normal(s.resolve(batch=3, time=37).shape).astype(np.float32)
                 for n, s in system.conditions_spec.items()}
        return given | {"mask": (np.arange(37) < np.array([[37], [20], [31]])).astype(np.float32)}
    zeros = {n: np.zeros(s.resolve(batch=2, time=10, tokens=5).shape, s.dtype) for n,
             s in system.conditions_spec.items()}
    return zeros | {"prompt": rng.integers(0, 48, (2, 5)).astype(np.int32),
                    "prompt_length": np.array([5, 3], np.int32),
                    "speaker": rng.standard_normal((2, 5)).astype(np.float32)}


@pytest.mark.parametrize("name, task", [("avflow", "generate"), ("talker", "t2av")])
def test_generation_on_a_mesh_that_splits_time(name, task):
    """Batches and lengths that divide by nothing."""
    small = SYSTEMS[name]()
    params, conditions = random_params(small.system), conditions_of(name, small.system, small)
    one, split = (generated(small.system, params, conditions, sizes, task)
                  for sizes in (None, MIXED))
    for stream, values in one.items():
        np.testing.assert_allclose(split[stream], values, rtol=1e-4,
                                   atol=1e-4 * max(1.0, float(np.abs(values).max())),
                                   err_msg=stream)
