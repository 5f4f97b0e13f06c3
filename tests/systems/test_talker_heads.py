"""Talker-T2AV's local transformers: stacks of blocks, what is recomputed, coupled heads."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax.nn.layers import rms_norm
from avjax.systems.api import build
from avjax.systems.talker import decode
from avjax.systems.talker.backbone import Backbone
from avjax.systems.talker.local import LocalBlock, LocalStack, group_of, joint_stacks
from avjax.training.flops import count_flops
from tests.systems.talker_tiny import draw, head_arguments, one, random_like, random_params, tiny


def test_last_block_computes_what_is_read_of_it():
    whole, part = (LocalStack(width=8, heads=2, layers=2, rows=rows)
                   for rows in ((0, None), (-2, None)))
    x = np.random.default_rng(0).standard_normal((4, 5, 8)).astype(np.float32)
    params = random_like(jax.eval_shape(whole.init, jax.random.key(0), x))
    both = jax.jit(lambda params, x: (part.apply(params, x), whole.apply(params, x)[:, -2:]))
    np.testing.assert_allclose(*both(params, x), atol=1e-5)


@pytest.mark.parametrize("rows", [(0, None), (-2, None)])
def test_sequences_taken_together_are_what_they_are_alone(rows):
    block = LocalBlock(width=8, heads=2, rows=rows)
    x = np.random.default_rng(0).standard_normal((2, 6, 5, 8)).astype(np.float32)
    params = random_like(jax.eval_shape(block.init, jax.random.key(0), x))
    together = jax.jit(block.apply, static_argnums=2)(params, x.reshape(2, 2, 15, 8), 3)
    np.testing.assert_allclose(together.reshape(2, 6, -1, 8), jax.jit(block.apply)(params, x),
                               rtol=1e-5, atol=1e-6)


def test_sequences_that_fill_tiles_are_taken_together_in_16_bits():
    """Of 8 x 12 sequences of 10 tokens 12 would fit into 128, and 8 end with a tile of 16."""
    assert group_of((2, 96), 10, jnp.bfloat16) == group_of((2, 48, 2), 10, jnp.bfloat16) == 8
    assert group_of((2, 96), 5, jnp.bfloat16) == 16
    for lead, dtype in (((2, 96), jnp.float32), ((2, 7), jnp.bfloat16), ((96,), jnp.bfloat16)):
        assert group_of(lead, 10, dtype) == 1
    stack = LocalStack(width=8, heads=2, layers=2, rows=(-2, None), dtype=jnp.bfloat16)
    x = np.random.default_rng(0).standard_normal((2, 4, 2, 10, 8)).astype(np.float32)
    params = random_like(jax.eval_shape(stack.init, jax.random.key(0), x))
    both = jax.jit(lambda params, x: (stack.apply(params, x), stack.apply(params, x[:, 0, 0])))
    together, alone = both(params, x)
    assert together.shape == (2, 4, 2, 2, 8)
    np.testing.assert_allclose(np.float32(together[:, 0, 0]), np.float32(alone), atol=0.05)


@pytest.mark.parametrize("layers", [1, 2, 4])
def test_stacks_are_their_blocks_in_turn(layers):
    """Scanned, or apart as a sampler has them, alone and joint; a stack of one block has nothing to
    scan."""
    rng, there = np.random.default_rng(0), np.array([True, True, False, True])
    a, b = (rng.standard_normal((4, n, 24)).astype(np.float32) for n in (5, 3))
    scanned, apart = (LocalStack(width=24, heads=2, layers=layers, rows=(-2, None), unstacked=x)
                      for x in (False, True))
    params = [random_like(jax.eval_shape(scanned.init, jax.random.key(0), a)["params"], seed)
              for seed in (0, 1)]
    assert ("blocks" in params[0]) == (layers > 1)
    unstacked = [decode.unstack_blocks(p) for p in params]
    assert [f"blocks_{i}" in unstacked[0] for i in range(layers)] == [True] * (layers - 1) + [False]

    def in_turn(p, x):
        for i in range(layers):
            rows, name = ((0, None), f"blocks_{i}") if i < layers - 1 else ((-2, None), "last")
            x = LocalBlock(24, 2, rows=rows).apply({"params": p[name]}, x)
        return rms_norm(x, p["norm"]["scale"])

    want = jax.jit(in_turn)(unstacked[0], a)
    np.testing.assert_allclose(jax.jit(scanned.apply)({"params": params[0]}, a), want, rtol=1e-5,
                               atol=1e-5)
    np.testing.assert_allclose(jax.jit(apart.apply)({"params": unstacked[0]}, a), want, rtol=1e-5,
                               atol=1e-5)

    def joint(stack, p):
        bound = [stack.bind({"params": one}) for one in p]
        return joint_stacks(*bound, a, b, there, ~there)

    together = [jax.jit(functools.partial(joint, stack))(p) for stack,
                p in ((scanned, params), (apart, unstacked))]
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5), *together)
    # the other is not there
    np.testing.assert_allclose(together[0][0][there], want[there], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("part", ["heads", "language model"])
def test_remat_saves_what_it_says(part, dtype):
    """"dots" recomputes attention but no dense layer, "full" those too; and the compiler does not
    undo it."""
    flops, x = {}, np.zeros((2, 6, 32), dtype)
    for remat in ("none", "dots", "full"):
        if part == "heads":
            rest, net = (), LocalStack(width=32, heads=2, layers=2, rows=(0, None), remat=remat,
                                       dtype=dtype)
        else:
            net, rest = Backbone(tiny(d_model=32, remat=remat),
                                 dtype), (np.zeros((2, 6), int), np.ones((2, 6), int))
        params = jax.eval_shape(net.init, jax.random.key(0), x, *rest)
        gradient = jax.grad(lambda p, net=net, rest=rest: net.apply(p, x, *rest).sum())
        if part == "heads" and dtype == jnp.float32:  # what is left after XLA has merged duplicates
            flops[remat] = jax.jit(gradient).lower(params).compile().cost_analysis()["flops"]
        else:  # layers are scanned, within which XLA merges none
            flops[remat] = count_flops(gradient, params)
    assert flops["none"] < flops["dots"] < flops["full"]
    assert flops["dots"] - flops["none"] < 0.5 * (flops["full"] - flops["none"])


@pytest.mark.slow
def test_joint_heads_feel_each_other_unless_absent():
    separate, joint = (build(tiny(velocity_layers=2, coupling=coupling))
                       for coupling in ("separate", "joint"))
    params = random_params(joint)
    # equal parameters
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, random_params(separate))
    speech, motion = head_arguments(joint.config)
    other = (motion[0] + 1, *motion[1:])
    net = jax.jit(lambda *a: joint.net.apply({"params": params}, *a, method="velocities_joint"))
    there, gone = np.ones(3, bool), np.zeros(3, bool)
    both = net(speech, motion, there, there)
    assert np.abs(both[0] - net(speech, other, there, there)[0]).max() > 1e-3
    alone = jax.jit(lambda *a: joint.net.apply({"params": params}, *a,
                                                 method="speech_velocity"))(*speech)
    np.testing.assert_allclose(net(speech, other, there, gone)[0], alone, atol=1e-5)
    # absence is an affair of each patch
    mixed = net(speech, motion, there, np.array([True, False, True]))[0]
    keep = np.array([0, 2])
    np.testing.assert_allclose(mixed[keep], both[0][keep], atol=1e-5)
    np.testing.assert_allclose(mixed[1], alone[1], atol=1e-5)
    noise = draw(joint.config)
    np.testing.assert_array_equal(noise["speech"]["t"], noise["motion"]["t"])


def test_heads_with_many_tokens_equal_heads_with_few():
    """Above a number of patches two products are merged into one."""
    system, params = one()
    speech, _ = head_arguments(system.config, n=40)

    @jax.jit
    def many_and_few(params, *speech):
        net = functools.partial(system.net.apply, {"params": params}, method="speech_velocity")
        return net(*speech), jax.lax.map(lambda a: net(*(x[None] for x in a))[0], speech)

    np.testing.assert_allclose(*many_and_few(params, *speech), atol=2e-5)
