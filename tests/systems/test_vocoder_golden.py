"""Discriminators, losses and their gradients against recordings of the published code."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import FrozenConfigDict

from avjax.systems.vocoder import cqt, discriminators, losses, published
from avjax.systems.vocoder.config import Config
from avjax.systems.vocoder.generator import mel_recipe
from tests.golden_files import cases, golden, recordings, relative_error, under
from tests.golden_files import config as recorded_config

CASES = cases("vocoder_gan")
NAMES = ("mpd", "mrd", "mbd", "cqtd")
LOOSE = 1e-3  # of isolated samples: signs of absolute differences flip, see the recordings' README


def ours(arrays, *names) -> FrozenConfigDict:
    c = recorded_config(arrays)
    return FrozenConfigDict(Config.make(
        sample_rate=c["sampling_rate"], discriminators=names,
        width=int(32 * c["discriminator_channel_mult"]), periods=tuple(c["mpd_reshapes"]),
        resolutions=tuple(map(tuple, c["resolutions"])), band_windows=tuple(c["mbd_fft_sizes"]),
        band_width=c["mbd_channels"], octave_width=c["cqtd_filters"],
        octave_dilations=tuple(c["cqtd_dilations"]),
        octave_transforms=tuple(zip(c["cqtd_hop_lengths"], c["cqtd_n_octaves"],
                                    c["cqtd_bins_per_octaves"], strict=True))))


def sounds(arrays):
    return [jnp.asarray(arrays[f"{kind}_int16"], jnp.float32) / 32768 for kind in ("real", "gen")]


def of_file(arrays, name, config):
    state = {f"{'mpd' if name == 'mpd' else 'mrd'}.{n}": x
             for n, x in under(arrays, f"{name}/sd/").items()}
    return published.read(state, config)[name]


def thinned(x, stride):
    """As the recordings keep it: channels first, every so many."""
    return np.moveaxis(np.asarray(x), -1, 1).reshape(-1)[::stride]


@functools.cache
def compiled(config, name):
    """A function of (parameters, real, made) that gives all that is recorded of a discriminator,
    compiled once for all tests."""
    def judge(params, x):
        return discriminators.judge(name, config, params, x)

    def values(answers, features):
        """Losses that judge both sounds; the true sound's features are what others should match."""
        (true, made), (wanted, found) = halves(answers), halves(features)
        return (losses.telling(true, made), losses.fooling(made),
                2 * losses.matching(jax.lax.stop_gradient(wanted), found))

    def halves(arrays):
        return [[jnp.split(x, 2)[i] for x in arrays] if isinstance(arrays[0], jax.Array) else
                [[jnp.split(x, 2)[i] for x in inner] for inner in arrays] for i in (0, 1)]

    def everything(params, real, made):
        (answers, features), judged = jax.vjp(judge, params, jnp.concatenate([real, made]))
        (told, fooled, matched), valued = jax.vjp(values, answers, features)
        grads, _ = judged(valued(tuple(jnp.eye(3)[0])))
        _, of_sounds = jax.vmap(lambda by: judged(valued(tuple(by))))(jnp.eye(3)[1:])
        by_answers, by_features = of_sounds[:, len(real):]
        found = zip(halves(answers), halves(features), strict=True)
        return {"disc_loss": told, "gen_loss": fooled, "fm_loss": matched}, *found, (
            by_answers, by_features), grads

    return jax.jit(everything)


@functools.cache
def results(file, name):
    arrays = dict(recordings("vocoder_gan"))[file]
    config = ours(arrays, name)
    return jax.device_get(compiled(config, name)(of_file(arrays, name, config), *sounds(arrays)))


@pytest.mark.parametrize(("file", "arrays"), golden("vocoder_gan"))
@pytest.mark.parametrize("name", ["mpd", "mrd", pytest.param("mbd", marks=pytest.mark.slow),
                                  "cqtd"])
def test_a_discriminator_is_the_published_one(file, arrays, name):
    values, (true_answers, _), (answers, features), gradients, grads = results(file, name)
    strides, recorded = recorded_config(arrays)["flat_strides"], under(arrays, f"{name}/")
    for key, value in values.items():
        assert relative_error(value, recorded[key]) < 1e-4, key
    for i, (m, r) in enumerate(zip(answers, true_answers, strict=True)):
        for kind, x in (("gen", m), ("real", r)):
            key = f"{kind}_out/{i}"
            assert relative_error(thinned(x, strides[f"{name}/{key}"]), recorded[key]) < 1e-4, key
    for i, found in enumerate(features):
        assert len(found) == len(under(recorded, f"fmap_gen/{i}/"))
        for j, x in enumerate(found):
            key = f"fmap_gen/{i}/{j}"
            assert relative_error(thinned(x, strides[f"{name}/{key}"]), recorded[key]) < 1e-4, key
    for kind, gradient, bound in zip(("gen", "fm"), gradients, (1e-4, LOOSE), strict=True):
        assert relative_error(gradient[:, ::4], recorded[f"grad_{kind}_loss_every4"]) < bound, kind
    state = published.write({name: grads}, ours(arrays, name))
    prefix = "mpd." if name == "mpd" else "mrd."
    norms = [np.linalg.norm(state[prefix + n]) for n in recorded["disc_grad_names"]]
    np.testing.assert_allclose(norms, recorded["disc_grad_norms"], rtol=1e-3,
                               atol=1e-5 * recorded["disc_grad_norms"].max())
    for n, x in under(recorded, "disc_grad/").items():
        assert relative_error(state[prefix + n], x) < 1e-4, n


@pytest.mark.parametrize("arrays", CASES)
def test_names_and_layouts_go_both_ways_with_what_is_computed(arrays):
    for name in NAMES:
        config = ours(arrays, name)
        state = published.write({name: of_file(arrays, name, config)}, config)
        theirs = under(arrays, f"{name}/sd/")
        assert {n.partition(".")[2] for n in state} >= theirs.keys()
        for n, x in theirs.items():
            bound = 1e-6 if published.COMPUTED.fullmatch(f".{n}") else 0.0
            np.testing.assert_allclose(state[f"{'mpd' if name == 'mpd' else 'mrd'}.{n}"], x,
                                       atol=bound, rtol=0)


@pytest.mark.parametrize(("file", "arrays"), golden("vocoder_gan"))
def test_mel_losses_and_the_generators_whole_loss(file, arrays):
    config, (real, made) = ours(arrays, *NAMES), sounds(arrays)
    c = recorded_config(arrays)["mel_v1"]
    recipe = mel_recipe(config) | {"fmax": c["fmax"] or c["sampling_rate"] / 2}

    def seven(x):
        scales = losses.mel_distances(real, x, config.sample_rate)
        return sum(scales), jnp.stack(scales)

    one, one_gradient = jax.jit(jax.value_and_grad(
        lambda x: losses.mel_distance(real, x, recipe)))(made)
    (all_seven, scales), seven_gradient = jax.jit(jax.value_and_grad(seven, has_aux=True))(made)
    assert relative_error(scales, arrays["mel_v2/per_scale"]) < 1e-5
    for key, names, value, gradient, weight in (
            ("v1", ("mpd", "mrd"), one, one_gradient, 45),
            ("v2", ("mpd", "cqtd"), all_seven, seven_gradient, 15)):
        assert relative_error(value, arrays[f"mel_{key}/loss"]) < 1e-5
        assert relative_error(gradient[:, ::4], arrays[f"mel_{key}/grad_every4"]) < 1e-4
        found = [results(file, name) for name in names]
        total = weight * value + sum(v["gen_loss"] + v["fm_loss"] for v, *_ in found)
        by_sound = weight * gradient + sum(sum(gradients) for *_, gradients, _ in found)
        assert relative_error(total, arrays[f"total_{key}"]) < 1e-4
        assert relative_error(by_sound, arrays[f"total_{key}_grad"]) < LOOSE


@pytest.mark.parametrize("arrays", CASES)
def test_the_constant_q_transform_and_its_kernels(arrays):
    config, real = ours(arrays, "cqtd"), sounds(arrays)[0]
    for i, transform in enumerate(discriminators.transforms(config)):
        recorded = under(arrays, f"cqt_front/{i}/")
        np.testing.assert_allclose(cqt.doubled(real)[:, ::7], recorded["upsampled_every7"],
                                   atol=1e-6)
        found = np.asarray(transform(real)).transpose(0, 2, 1, 3)
        assert found.shape == tuple(recorded["shape"])
        stride = recorded_config(arrays)["flat_strides"][f"cqt_front/{i}/flat"]
        assert relative_error(found.reshape(-1)[::stride], recorded["flat"]) < 1e-5
        for n, x in cqt.buffers(transform).items():
            np.testing.assert_allclose(x, arrays[f"cqtd/sd/discriminators.{i}.{n}"], atol=1e-7)
