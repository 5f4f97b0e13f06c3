"""Every mesh gives the loss and the gradients of one device, and every axis of it is put to use.

By default each system runs on the meshes of MESHES; with AVJAX_ALL_MESHES=1 on all twenty ways to
put eight devices on four axes.
"""

import itertools
import os
import time

import jax
import numpy as np
import pytest

from avjax.sharding.mesh import AXES, batch_shardings, make_mesh, put_batch, replicated
from avjax.sharding.rules import named_leaves, param_shardings
from avjax.systems import api
from tests.sharding.compiled import collectives, products
from tests.sharding.small_systems import FLOAT, SYSTEMS, B

FAST = {"xla_backend_optimization_level": "0"}
MIXED, SPLIT = dict(fsdp=2, seq=2, tensor=2), dict(data=4, seq=2)
MESHES = {"avflow": [dict(fsdp=8), dict(seq=8), dict(tensor=8), MIXED], "talker": [SPLIT, MIXED],
          "avflow.text": [MIXED],
          "tavid": [SPLIT, MIXED], "tavid.text": [MIXED],
          "tavid.mapper": [dict(data=2, seq=2, tensor=2)], "tavid.visual": [SPLIT]}
ALL = [dict(zip(AXES, (2**i for i in powers), strict=True))
       for powers in itertools.product(range(4), repeat=4)
       if sum(powers) == 3]
# Products of a device on a mesh over an eighth of one device's. What is small at real sizes is not
# split over width: the first and last products of narrow streams, small nets beside the large ones.
REPEATED, REPEATED_WIDTH = 1.3, 2.2


def compiled(small, params, sizes):
    """(run: -> (loss, gradients) on the host, the compiled text)."""
    mesh = make_mesh(sizes) if sizes else make_mesh(dict(data=1), jax.devices()[:1])
    places = param_shardings(params, small.system.param_rules, mesh)
    lie = {name: place for name, place in batch_shardings(mesh, small.system.batch_spec).items()
           if name in small.batch}

    def step(params, batch):
        return jax.value_and_grad(lambda params: small.system.loss(params, batch,
                                                                   jax.random.key(0))[0])(params)

    with jax.set_mesh(mesh):
        program = jax.jit(step, in_shardings=(places, lie),
                          out_shardings=(replicated(mesh), places)).lower(
            params, small.batch).compile(FAST)
        out = jax.device_get(program(jax.device_put(params, places), put_batch(small.batch, lie)))
    return out, program.as_text()


def random_params(system):
    """No parameter is zero, so none hides another's gradient. Without compiling `init`."""
    rng = np.random.default_rng(0)

    def one(path, x):
        noise = rng.standard_normal(x.shape).astype(np.float32)
        return 1 + 0.02 * noise if path[-1].key == "scale" else 0.08 * noise

    return jax.tree_util.tree_map_with_path(one, api.abstract_params(system))


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_mesh_gives_the_loss_and_gradients_of_one_device(name):
    small = SYSTEMS[name]()
    params = random_params(small.system)
    (loss, grads), text = compiled(small, params, None)
    for x in (loss, *jax.tree.leaves(grads)):  # as tests/systems/test_contract.py asks of others
        assert x.dtype == np.float32 and np.isfinite(x).all()
    alone, largest = products(text), max(np.abs(g).max() for g in jax.tree.leaves(grads))
    held = sum(x.nbytes for x in jax.tree.leaves(params))
    for sizes in ALL if os.environ.get("AVJAX_ALL_MESHES") else MESHES[name]:
        began = time.process_time()
        (split_loss, split_grads), text = compiled(small, params, sizes)
        where = ", ".join(f"{axis}={n}" for axis, n in sizes.items() if n > 1)
        np.testing.assert_allclose(split_loss, loss, rtol=1e-5, err_msg=where)
        worst = 0.0
        for (path, ours), (_, one) in zip(named_leaves(split_grads), named_leaves(grads),
                                          strict=True):
            scale = max(np.abs(one).max(), 1e-3 * largest)
            worst = max(worst, float(np.abs(ours - one).max() / scale))
            assert worst <= 1e-5, f"{where}: {path}'s gradient differs by {worst:.1e}"

        tensor, fsdp, seq = (sizes.get(axis, 1) for axis in ("tensor", "fsdp", "seq"))
        repeated = products(text) * 8 / alone
        gathered = sum(c.bytes for c in collectives(text) if c.kind == "all-gather")
        print(f"{name} {where}: loss {abs(split_loss - loss) / abs(loss):.1e}, gradients "
              f"{worst:.1e}, products {repeated:.2f}, "
              f"gathered {gathered / 1e3:.0f} kB, {time.process_time() - began:.1f} CPU s")
        assert repeated <= (REPEATED_WIDTH if tensor > 1
                            else REPEATED), f"{where}: work is repeated {repeated:.2f} times"
        if tensor == fsdp == 1:  # what is exchanged along time, and not one activation more
            rows = B * seq // 8
            assert gathered <= (1.02 * small.gathered(rows) + 64 * rows * FLOAT * 8 if seq > 1
                                else 0), \
                f"{where}: {gathered} bytes are gathered"
        if tensor == seq == 1:  # parameters, once for each direction
            assert gathered <= 2.2 * held, f"{where}: {gathered} bytes gathered, parameters {held}"
