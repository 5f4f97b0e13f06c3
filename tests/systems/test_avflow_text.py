"""AV-Flow's text to tokens: its layers against XLA's and finite differences, what padding changes,
sampling in steps and bad rows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.test_util import check_grads

from avjax.errors import UserError
from avjax.systems import api
from avjax.systems.avflow.text import alignment, layers, objective
from avjax.systems.avflow.text import config as presets
from avjax.systems.avflow.text.model import real
from tests.systems import tiny

NAME = "avflow.text"
RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


# ---- layers

@pytest.mark.parametrize(("size", "stride", "padding"), [(3, 1, (1, 1)), (5, 1, (2, 2)),
                                                         (3, 2, (1, 1)), (2, 1, (1, 0))])
def test_a_convolution_and_its_gradients_are_xlas(size, stride, padding):
    x, kernel = normal(2, 10, 3), normal(size, 3, 4)

    def ours(x, kernel):
        return layers.convolve(x, kernel, padding, stride)

    def xlas(x, kernel):
        return lax.conv_general_dilated(x, kernel, (stride,), (padding,),
                                        dimension_numbers=("NWC", "WIO", "NWC"))

    dy = normal(*jax.eval_shape(xlas, x, kernel).shape)

    @jax.jit
    def run(x, kernel, dy):
        both = (jax.vjp(f, x, kernel) for f in (ours, xlas))
        return [(out, pull(dy)) for out, pull in both]

    (out, grads), (expected, expected_grads) = run(x, kernel, dy)
    np.testing.assert_allclose(out, expected, atol=1e-5)
    for a, b in zip(grads, expected_grads, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)
    # as planned for accelerators: XLA's own
    assert "conv_general_dilated" in str(jax.make_jaxpr(ours)(x.astype(jnp.bfloat16),
                                                              kernel.astype(jnp.bfloat16)))


def test_twice_the_frames_is_a_transposed_convolution():
    module, x = layers.ConvTranspose(3), normal(2, 5, 3)
    kernel, bias = normal(4, 3, 3), normal(3)
    out = jax.jit(module.apply)({"params": {"conv": {"kernel": kernel, "bias": bias}}}, x)
    expected = np.zeros((2, 12, 3), np.float32)
    for i in range(5):
        for tap in range(4):  # frame 2 i + tap of a signal with one frame more at either end
            expected[:, 2 * i + tap] += x[:, i] @ kernel[tap]
    np.testing.assert_allclose(out, expected[:, 1:-1] + bias, atol=1e-5)


def test_gradients_are_those_of_finite_differences():
    with jax.enable_x64(True):
        x = jnp.asarray(np.concatenate([3 * normal(40), [-30.0, 0.0, 19.0, 25.0]]))
        check_grads(jax.jit(layers.mish), (x,), order=1, modes=("rev",))
        np.testing.assert_allclose(layers.mish(x), x * jnp.tanh(jax.nn.softplus(x)), atol=1e-9)
    with jax.enable_x64(True):
        arguments = [jnp.asarray(x, float) for x in (normal(2, 3, 4), *normal(3, 4) / 2)]
        seed = jnp.array([1, 2], jnp.uint32)
        check_grads(jax.jit(lambda *x: layers.snake_drop(*x, seed, 0.3)), arguments, order=1,
                    modes=("rev",), atol=1e-4, rtol=1e-4, eps=1e-4)
    norm, present = layers.GroupNormMish(4, 2), real(jnp.array([5, 3]), 6)

    def loss(params, x):
        y = norm.apply({"params": params}, x, present) * present[..., None]
        return jnp.sum(y * jnp.arange(1, 5))

    params = {"scale": 1 + normal(4) / 5, "bias": normal(4)}
    check_grads(jax.jit(loss), (params, normal(2, 6, 4)), order=1, modes=("rev",), atol=2e-2,
                rtol=2e-2)


def test_a_group_norm_counts_the_frames_that_are_present():
    norm, x = layers.GroupNormMish(4, 2), normal(1, 6, 4)
    params = {"params": {"scale": normal(4), "bias": normal(4)}}
    apply = jax.jit(norm.apply)
    whole, part = apply(params, x[:, :4], jnp.ones((1, 4))), apply(params, x, real(jnp.array([4]),
                                                                                   6))
    np.testing.assert_allclose(part[:, :4], whole, atol=1e-5)
    a, b = (jax.nn.standardize(x[:, :4, i:i + 2].reshape(1, -1), epsilon=1e-5) for i in (0, 2))
    y = np.concatenate([v.reshape(1, 4, 2) for v in (a, b)], -1)
    y = y * params["params"]["scale"] + params["params"]["bias"]
    np.testing.assert_allclose(whole, layers.mish(y), atol=1e-5)


def test_dropout_keeps_the_mean_and_nothing_is_dropped_without_a_key():
    x = jnp.ones((400, 500))
    out = np.asarray(layers.drop(x, 0.1, jax.random.key(0)))
    assert abs((out == 0).mean() - 0.1) < 2e-3 and abs(out.mean() - 1) < 3e-3
    assert layers.drop(x, 0.1, None) is x
    other = np.asarray(layers.drop(x, 0.1, jax.random.key(1)))
    assert abs(((out == 0) & (other == 0)).mean() - 0.01) < 1e-3
    assert abs(((out[1:] == 0) & (out[:-1] == 0)).mean() - 0.01) < 1e-3
    gradient = jax.grad(lambda x: jnp.sum(layers.drop(x, 0.1, jax.random.key(0))))(x)
    np.testing.assert_array_equal(gradient, out)


# ---- alignment

def test_the_search_finds_the_best_of_all_paths():
    score = normal(3, 6, 3)
    symbols, frames = np.array([3, 2, 1]), np.array([6, 4, 1])
    found = np.asarray(alignment.search(score, symbols, frames))
    for b, (X, Y) in enumerate(zip(symbols, frames, strict=True)):
        def paths(y, x, X=X, Y=Y):
            if y == Y:
                return [[]] if x == X - 1 else []
            return [[s, *rest] for s in (x, x + 1) if s < X for rest in paths(y + 1, s)]

        every = [[0, *rest] for rest in paths(1, 0)]
        best = max(every, key=lambda path, b=b: sum(score[b, y, x] for y, x in enumerate(path)))
        assert found[b, :Y].tolist() == best


def test_durations_need_not_be_whole():
    at = alignment.symbols_of_frames(jnp.array([[1.5, 1.5, 0.0, 2.0]]), 5)
    assert at[0].tolist() == [0, 0, 1, 3, 3]


# ---- the system

def loss_in_rows_of(frames: int, **changes):
    """Loss of the same batch in rows of so many frames."""
    config = tiny.CONFIGS[NAME]()
    config.update(dict(row_frames=frames) | changes)
    system = api.build(config)
    rng = np.random.default_rng(0)
    rows = [system.rows.build([tiny.example(NAME, n, n)], rng) for n in (18, 11)]
    batch = {n: np.stack([row[n] for row in rows]) for n in rows[0]}
    # noise is drawn for the whole row: without it
    tokens = jnp.asarray(batch["tokens"])
    parts, _ = jax.jit(functools.partial(objective.losses, system.net, config=system.config))(
        tiny.params(NAME), batch=batch, t_B=jnp.array([0.3, 0.6]), noise_BTC=jnp.zeros_like(tokens))
    return {name: float(value) for name, value in parts.items()}


def test_padding_is_seen_as_the_config_says():
    for changes in (dict(padding="alone"), dict(matcha_compat=False)):
        short, long = (loss_in_rows_of(n, **changes) for n in (24, 32))
        assert short == pytest.approx(long, rel=1e-5)
    short, long = (loss_in_rows_of(n, padding="batch") for n in (24, 32))
    assert abs(short.pop("flow") - long.pop("flow")) > 1e-3
    assert short == pytest.approx(long, rel=1e-5)


def test_steps_make_room_and_scales_change_length_and_spread():
    params, keys = tiny.params(NAME), jax.random.split(jax.random.key(0), 1)
    example = tiny.example(NAME, 9)

    def speaker(**changes):
        """(system, conditions, a function that speaks them)."""
        config = tiny.CONFIGS[NAME]()
        config.update(changes)
        system = api.build(config)
        conditions, _ = system.conditions(example)
        given = {n: np.asarray(v)[None] for n, v in conditions.items()}
        return system, given, lambda: list(system.steps("generate")(params, given, keys))

    system, given, speak = speaker()
    [chunk] = speak()
    count = int(chunk.streams["tokens_length"][0])
    assert chunk.streams["tokens"].shape == (1, count, 3)
    assert chunk.seconds == pytest.approx(count / system.config.frame_rate)
    given["room"] = np.zeros((1, count + 7), np.int32)
    out = jax.jit(system.generate)(params, given, keys)
    assert out["tokens_length"][0] == count and not np.asarray(out["tokens"][0, count:]).any()
    np.testing.assert_allclose(out["tokens"][0, :count], chunk.streams["tokens"][0], atol=1e-4)
    [slow] = speaker(length_scale=2.0)[2]()
    assert int(slow.streams["tokens_length"][0]) == 2 * count
    speak = speaker(temperature=0.0)[2]
    still, again = (chunk.streams["tokens"] for _ in range(2) for chunk in speak())
    np.testing.assert_array_equal(still, again)
    assert np.abs(still - chunk.streams["tokens"]).max() > 1e-2


BAD = {
    "more symbols than frames": dict(tokens=normal(8, 3)),
    "outside the model's table": dict(symbols=np.array([1, 10])),
    "no symbols": dict(symbols=np.zeros(0, np.int32)),
    "another width": dict(tokens=normal(12, 4)),
    "not finite": dict(tokens=np.full((12, 3), np.nan, np.float32)),
}


@pytest.mark.parametrize("message", BAD)
def test_a_row_that_cannot_be(message):
    example = tiny.example(NAME, 9) | {"tokens": normal(12, 3)} | BAD[message]
    with pytest.raises(UserError, match=f"{message}.*example 'avflow.text/0'"):
        tiny.system(NAME).rows.build([example], np.random.default_rng(0))


@pytest.mark.parametrize(("changes", "message"), [
    ({"row_frames": 30}, "multiple of 4"), ({"unet.groups": 3}, "multiples of groups"),
    ({"encoder.heads": 5}, "multiple of 4"), ({"row_symbols": 40}, "<= row_frames = 32"),
    ({"std": 0.0}, "config.system.std")])
def test_a_config_that_cannot_be(changes, message):
    config = tiny.CONFIGS[NAME]()
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=message):
        presets.check(config)
