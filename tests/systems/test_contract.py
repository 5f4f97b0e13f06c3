"""What every registered system promises: see avjax.systems.api. A new system joins by its tiny
config in tests/systems/tiny.py; without one, the first test fails."""

import functools
import importlib
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from avjax.errors import UserError
from avjax.sharding.mesh import batch_shardings, make_mesh, put_batch
from avjax.sharding.rules import named_leaves, param_shardings
from avjax.systems import api, benchmarking, registry
from avjax.weights.published import Published
from configs import tavid_quickstart
from tests.sharding import small_systems
from tests.systems import tiny

NAMES = registry.names()
NOT_RANDOM = {"face_reader", "head_vae", "tavid.mapper", "tavid.speaker", "tavid.vae",
              "vocoder"}
ROOM = {"time": 160, "units": 48, "tokens": 9, "symbols": 24, "prompt": 5}
WIDER = {"time": 168, "units": 56, "tokens": 12, "symbols": 30, "prompt": 8}
TASKS = [(name, task) for name in NAMES for task in tiny.system(name).tasks]


def cases(pairs):
    """A system's first task always; the others, and all parts of TAVID at once, are slow tests."""
    return [pytest.param(name, task, marks=[pytest.mark.slow] * (
        name == "tavid" or task != tiny.system(name).tasks[0])) for name, task in pairs]


@functools.cache
def generator(name: str):
    """`generate` of the tiny system, compiled once a task and room for all tests."""
    return jax.jit(tiny.system(name).generate, static_argnames="task")


def presets(name: str) -> list[ConfigDict]:
    """The configs that a system's own functions without arguments make."""
    if name == "tavid":  # its own presets leave numbers that the parts share to the experiment
        return [tavid_quickstart.get_config().system]
    found = []
    for file in ("config", "system"):
        try:
            module = importlib.import_module(f"avjax.systems.{name}.{file}")
        except ModuleNotFoundError:
            continue
        for _, function in inspect.getmembers(module, inspect.isfunction):
            if function.__module__ == module.__name__ and not inspect.signature(
                    function).parameters:
                made = function()
                if isinstance(made, ConfigDict) and made.get("name") == name and made not in found:
                    found.append(made)
    return found


def test_every_system_is_found_and_misspelt_names_get_the_nearest():
    assert set(NAMES) == tiny.CONFIGS.keys()
    for name in NAMES:
        assert issubclass(registry.load(name), api.System)
        assert isinstance(registry.benchmark(name), benchmarking.Benchmark)
        assert isinstance(registry.published(name), Published | None)
    with pytest.raises(UserError, match="unknown system.*'avflwo'.*did you mean 'avflow'"):
        api.build(ConfigDict({"name": "avflwo"}))


@pytest.mark.parametrize("name", NAMES)
def test_one_sharding_rule_a_parameter_in_every_preset(name):
    mesh, found = make_mesh({"data": 1}, jax.devices()[:1]), presets(name)
    assert found
    others = [api.build(config) for config in (*tiny.variants(name), *found)]
    for system in (tiny.system(name), *others):
        shapes = (tiny.shapes(name) if system is tiny.system(name) else
                  api.abstract_params(system))
        assert {x.dtype for x in jax.tree.leaves(shapes)} == {np.dtype(np.float32)}
        param_shardings(shapes, system.param_rules, mesh)  # raises unless just one matches


@pytest.mark.parametrize("name", NAMES)
def test_specs_describe_batches_conditions_and_streams(name):
    system, batch = tiny.system(name), tiny.batch(name)
    shapes = api.example_batch(system, batch=2, time=20)
    assert {n: (x.shape, x.dtype) for n, x in batch.items()} == {
        n: (s.shape, s.dtype) for n, s in shapes.items()}
    made = {stream for streams in system.makes.values() for stream in streams}
    assert tuple(system.makes) == system.tasks and made <= system.streams_spec.keys()
    for spec in (*system.batch_spec.values(), *system.example_spec.values(),
                 *system.conditions_spec.values(), *system.streams_spec.values()):
        assert spec.shape[0] == "batch" and spec.meaning
        assert spec.speaker_axis is None or 0 < spec.speaker_axis < len(spec.shape)
    for task in system.tasks:
        conditions, frames = system.conditions(tiny.example(name, 12), task)
        assert conditions.keys() | {"mask"} == system.conditions_spec.keys() | {"mask"}
        assert frames >= 1


@pytest.mark.parametrize("name", sorted(set(NAMES) - small_systems.SYSTEMS.keys()))
def test_loss_and_gradients_are_finite_float32_and_a_mesh_changes_neither(name):
    """Those of small_systems: tests/sharding/test_mesh_systems.py, on larger meshes."""
    system, params, batch = tiny.system(name), tiny.params(name), tiny.batch(name, size=4)
    step = jax.jit(jax.value_and_grad(system.loss, has_aux=True))
    key = jax.random.key(1)
    (loss, metrics), grads = jax.device_get(step(params, batch, key))
    assert loss.dtype == np.float32 and loss.shape == () and np.isfinite(loss)
    assert all(np.shape(m) == () and np.isfinite(m) for m in metrics.values())
    assert jax.tree.map(jnp.shape, grads) == jax.tree.map(jnp.shape, params)
    for path, g in named_leaves(grads):
        assert g.dtype == np.float32 and np.isfinite(g).all(), path
    mesh = make_mesh(dict(data=2, fsdp=2), jax.devices()[:4])
    with jax.set_mesh(mesh):
        places = param_shardings(params, system.param_rules, mesh)
        spread = step(jax.device_put(params, places),
                      put_batch(batch, batch_shardings(mesh, system.batch_spec)), key)
    largest = max(np.abs(g).max() for g in jax.tree.leaves(grads))
    np.testing.assert_allclose(spread[0][0], loss, rtol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * largest),
                 jax.device_get(spread[1]), grads)


@pytest.mark.parametrize(("name", "task"), cases(TASKS))
def test_generate_depends_on_the_example_and_its_key_alone(name, task):
    """Neither on neighbours, nor on the batch's size, nor on padding."""
    system, params = tiny.system(name), tiny.params(name)
    examples, keys = [tiny.example(name, n, n) for n in (22, 14)], jax.random.split(
        jax.random.key(2), 2)

    def streams(rows, room, keys):
        given, frames = tiny.conditions(name, [examples[i] for i in rows], task, room)
        out = jax.device_get(generator(name)(params, given, keys, task=task))
        return [api.real_streams(system, out, i, n) for i, n in enumerate(frames)]

    both = streams([0, 1], ROOM, keys)
    swapped = streams([1, 0], ROOM, keys[::-1])
    (alone,) = streams([1], WIDER, keys[1:])
    assert set(system.makes[task]) <= both[1].keys()
    for other in (swapped[0], alone):
        for stream, value in both[1].items():
            np.testing.assert_allclose(other[stream].astype(float), value.astype(float), atol=1e-4,
                                       rtol=1e-4, err_msg=stream)
    moved = streams([0, 1], ROOM, keys[::-1])[1]
    same = all(np.array_equal(moved[stream], both[1][stream]) for stream in system.makes[task])
    assert same == (name in NOT_RANDOM)


@pytest.mark.parametrize(("name", "task"), cases(
    (name, task) for name, task in TASKS if tiny.system(name).can_stream(task)))
def test_a_stream_in_chunks_is_what_generate_makes(name, task):
    system, params = tiny.system(name), tiny.params(name)
    given, (frames,) = tiny.conditions(name, [tiny.example(name, 22)], task, WIDER)
    keys = jax.random.split(jax.random.key(2), 1)
    out = jax.device_get(generator(name)(params, given, keys, task=task))
    offline = api.real_streams(system, out, 0, frames)
    chunks = list(system.stream(params, [given], keys, task))
    seconds = [chunk.seconds for chunk in chunks]
    assert seconds == sorted(seconds) and seconds[-1] > 0
    for stream in system.makes[task]:
        if "time" in system.streams_spec[stream].shape:
            parts = [c.streams[stream][0] for c in chunks if stream in c.streams]
            value = np.concatenate(parts)[:len(offline[stream])]
            np.testing.assert_allclose(value, offline[stream], atol=1e-4, rtol=1e-4, err_msg=stream)
