"""The picture VAE: recordings of the published one, the codec round it, and a job that trains
one."""

import ast
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import FrozenConfigDict

from avjax.codecs import pictures
from avjax.codecs.autoencoder_kl import AutoencoderKL, factor
from avjax.codecs.published import sd_vae
from avjax.errors import UserError
from avjax.nn.convolutions import fold, group_norm, unfold
from avjax.systems.api import build
from avjax.systems.tavid.vae import config as configs
from configs import base
from data_pipelines.features.common import trained
from data_pipelines.store.dataset import write_dataset
from data_pipelines.store.schema import Feature
from launch.training import run_training
from tests.golden_files import cases, relative_error, under

CASES = cases("sd_vae", key="sd/")
TOLERANCE = 1e-4


def nhwc(x):
    return np.moveaxis(x, 1, -1)


@pytest.mark.parametrize("arrays", CASES)
def test_published_network(arrays):
    state, recorded = under(arrays, "sd/"), ast.literal_eval(str(arrays["config"]))
    config = FrozenConfigDict(sd_vae.vae_sizes(state) | {"groups": recorded["norm_num_groups"],
                                                         "scaling": recorded["scaling_factor"]})
    net, params = AutoencoderKL(config), sd_vae.import_vae(state, config)

    @jax.jit
    def run(params, x, eps):
        mean, log_variance = net.apply({"params": params}, x, method="encode")
        sample = mean + jnp.exp(0.5 * log_variance) * eps
        return mean, log_variance, sample, sample * config.scaling, net.apply({"params": params},
                                                                              sample,
                                                                              method="decode")

    out = run(params, nhwc(arrays["x"]), nhwc(arrays["eps"]))
    for ours, name in zip(out, ("mean", "logvar", "sample", "scaled_sample", "decoded"),
                          strict=True):
        assert relative_error(ours, nhwc(arrays[name])) < TOLERANCE, name

    exported = sd_vae.export_vae(params, config)
    assert set(exported) == set(state) and all(exported[k].tobytes() == v.tobytes() for k,
                                               v in state.items())
    names = {new: old for old, new in sd_vae.OLD.items()}
    old = {re.sub(r"(?<=attentions\.0\.)(to_q|to_k|to_v|to_out\.0)", lambda m: names[m[0]], k): v
           for k, v in state.items()}
    assert any(".query." in k for k in old) and set(old) != set(state)
    again = sd_vae.import_vae(old, config)
    assert jax.tree.all(jax.tree.map(np.array_equal, again, params))

    codec = pictures.from_state_dict(state, groups=config.groups, scaling=config.scaling)
    shown = np.clip(np.round((nhwc(arrays["x"]) + 1) * 127.5), 0, 255).astype(np.uint8)
    mean = run(params, (shown / 127.5 - 1).astype(np.float32), nhwc(arrays["eps"]))[0]
    assert relative_error(codec.encode(shown), mean * config.scaling) < TOLERANCE
    picture = codec.decode(nhwc(arrays["mean"]) * config.scaling).astype(float) / 127.5 - 1
    assert np.abs(picture - np.clip(nhwc(arrays["decoded_from_mean"]), -1, 1)).max() < 1 / 127


def test_group_norm_backward_by_hand():
    """The written-out backward pass against the one that JAX makes of the plain formula."""
    def plain(x, scale, bias, silu):
        parts = x.reshape(*x.shape[:3], 2, 3)
        mean = parts.mean((1, 2, 4), keepdims=True)
        y = ((parts - mean) / jnp.sqrt(parts.var((1, 2, 4),
                                                 keepdims=True) + 1e-3)).reshape(
                                                     x.shape) * scale + bias
        return jax.nn.silu(y) if silu else y

    keys = jax.random.split(jax.random.key(0), 4)
    x, dy = jax.random.normal(keys[0], (2, 2, 4, 5, 6))
    inputs = (x, 1 + jax.random.normal(keys[1], (6,)), jax.random.normal(keys[2], (6,)))

    def run(function):
        y, back = jax.vjp(function, *inputs)
        return y, back(dy)

    for silu in (False, True):
        ours, theirs = jax.jit(lambda silu=silu: (run(lambda *a: group_norm(*a, 2, 1e-3, silu)),
                                                    run(lambda *a: plain(*a, silu))))()
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), ours, theirs)


def tiny(**more):
    c = configs.tiny()
    c.update(dict(size=16, channels=(32,), groups=4, pictures_per_row=2) | more)
    return c


def faces(count, size=16, seed=0):
    """Boxes of several colours with a bright bar, here and there."""
    rng = np.random.default_rng(seed)
    out = np.full((count, size, size, 3), 40, np.uint8)
    for picture in out:
        top, left = rng.integers(0, size // 2, 2)
        picture[top:top + 8, left:left + 8] = rng.integers(0, 256, 3)
        picture[top + 4, left:left + rng.integers(2, 8)] = 250
    return out


def test_a_job_trains_it_and_the_codec_is_found_in_its_workdir(tmp_path, one_device):
    features = {"id": Feature((), "str", "name"),
                "pictures": Feature((None, 16, 16, 3), "uint8", "pictures", rate=5.0)}
    clips = [{"id": f"c{i}", "pictures": faces(5 + i, seed=i)} for i in range(6)]
    write_dataset(tmp_path / "pictures", name="mini", description="mini", features=features,
                  splits={"train": clips[:4], "valid": clips[4:]}, recipes={}, progress=False)
    c = base.get_config()
    c.system, c.data.dir, c.data.batch_size, c.data.threads = tiny(), str(tmp_path
                                                                          / "pictures"), 8, 0
    c.optimizer.learning_rate = 1e-2
    c.train.steps, c.train.log_every, c.train.loss_examples = 400, 200, 2
    c.train.checkpoint_every = c.train.evaluate_every = 1000
    c.train.peak_flops, c.evaluate.batch_size = 1e11, 8
    run_training(c, tmp_path / "run")

    codec = trained.load_picture_codec(tmp_path / "run")
    shown = np.concatenate([clip["pictures"][:2] for clip in clips[:4]])
    latents = codec.encode(shown)
    assert latents.shape == (len(shown), 4, 4, 4) == (len(shown), *codec.latent_shape(16, 16))
    # held by moment_weight
    assert 0.3 < latents.std() < 3 and np.abs(latents.mean((0, 1, 2))).max() < 1
    error = np.mean((codec.decode(latents).astype(float) - shown) ** 2)
    assert error < 0.25 * np.mean((shown.mean(0) - shown) ** 2)

    # one picture or many: the same latents; and the codec comes back from what a dataset keeps
    again = pictures.from_recipe(codec.recipe, codec.arrays())
    np.testing.assert_allclose(again.encode(shown[:3]), latents[:3], atol=1e-5)
    assert codec.encode(shown[:0]).shape == (0, 4, 4, 4)
    arrays = codec.arrays()
    arrays["latent/kernel"] = arrays["latent/kernel"][:, :2]
    with pytest.raises(UserError, match="arrays of another VAE.*latent/kernel"):
        pictures.from_recipe(codec.recipe, arrays)
    with pytest.raises(UserError, match="unknown picture codec"):
        pictures.from_recipe({"kind": "jpeg"}, {})
    with pytest.raises(UserError, match="multiples of 4"):
        codec.encode(shown[:, :15])
    with pytest.raises(UserError, match="not latents"):
        codec.decode(latents[..., :3])

    system = build(tiny())
    mask = np.ones((1, 5), np.float32)
    mask[0, 3:] = 0
    given = {"pictures": shown[None, :5], "mask": mask}
    out = jax.jit(system.generate)(codec.params, given, jax.random.split(jax.random.key(0), 1))
    np.testing.assert_allclose(out["pictures"][0, :3].astype(int), codec.decode(latents[:3]),
                               atol=1)
    assert not out["pictures"][0, 3:].any()


def test_rows_cover_the_clip():
    system, clip = build(tiny(pictures_per_row=4)), np.arange(40,
                                                              dtype=np.uint8)[:, None, None, None]
    rows = [system.rows.build([{"pictures": clip}], np.random.default_rng(i))["pictures"].ravel()
            for i in range(20)]
    assert all((row // 10 == [0, 1, 2, 3]).all()
               for row in rows) and len({row[0] for row in rows}) > 3
    short = system.rows.build([{"pictures": clip[:2]}],
                              np.random.default_rng(0))["pictures"].ravel()
    np.testing.assert_array_equal(short, [0, 0, 1, 1])
    with pytest.raises(UserError, match="without pictures"):
        system.rows.build([{"pictures": clip[:0]}], np.random.default_rng(0))


def test_factors_folds_and_bad_sizes():
    assert factor(configs.base()) == 8 and factor(configs.tiny()) == 4
    x = np.random.default_rng(0).normal(size=(1, 8, 12, 3)).astype(np.float32)
    np.testing.assert_array_equal(unfold(fold(x, 4), 4), x)
    assert fold(x, 4)[0, 1, 2, 3 * (4 * 2 + 3) + 1] == x[0, 4 + 2, 8 + 3, 1]
    for bad, word in ((dict(size=18), "multiple of 4"), (dict(groups=3), "multiples of groups"),
                      (dict(mid="x"), "plain")):
        with pytest.raises(UserError, match=word):
            build(tiny(**bad))
