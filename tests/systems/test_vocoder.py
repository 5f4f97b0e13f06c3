"""The vocoder's System: what a step does, what it refuses, and its published files both ways."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from avjax.codecs import bigvgan_network
from avjax.codecs.bigvgan import BigVGAN
from avjax.errors import UserError
from avjax.signal import mel
from avjax.systems import api
from avjax.systems.vocoder import config as vocoder
from avjax.systems.vocoder import generator, losses, published
from avjax.weights.fold import fold_weight_norm
from avjax.weights.torch_writer import write_torch_zip
from tests.golden_files import config as recorded_config
from tests.golden_files import relative_error, some, under
from tests.systems import tiny


def test_the_generator_in_training_is_the_published_one():
    """With its weight norm, through our parameters."""
    arrays = some("bigvgan_")
    state = {f"generator.{n}": x for n, x in under(arrays, "sd/").items()}
    c = recorded_config(arrays)
    config = vocoder.base()
    config.update(published.sizes(state, config) | {
        "rates": tuple(c["upsample_rates"]), "discriminators": (),
        "dilations": tuple(map(tuple, c["resblock_dilation_sizes"]))})
    system, params = api.build(config), published.read(state, config)
    audio = jax.jit(system.sound)(params, np.moveaxis(arrays["mel"], 1, 2))
    assert relative_error(audio, arrays["wav"][:, 0]) < 1e-4
    written = published.write(params, config)
    for name, value in state.items():
        np.testing.assert_allclose(written[name], value, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("folded", [False, True])
def test_a_generators_file_with_the_discriminators_beside_it(tmp_path, folded):
    """As the published training names and nests them; and of a folded file the same sound."""
    system, params = tiny.system("vocoder"), tiny.params("vocoder")
    state = published.write(params, system.config)
    parts = published.file(state, 10)
    if folded:
        own = {n.removeprefix("generator."): x for n, x in state.items() if "generator." in n}
        parts["generator"] = fold_weight_norm(own)
    write_torch_zip(str(tmp_path / "g_00000010"), {"generator": parts["generator"]})
    write_torch_zip(str(tmp_path / "do_00000010"), {
        "mpd": parts["mpd"], "mrd": parts["mrd"], "steps": 10, "epoch": 0,
        "optim_g": {"state": {0: {"step": 3.0}}, "param_groups": [{"lr": 1e-4}]}})
    again = published.read(published.opened(str(tmp_path / "g_00000010")), system.config)
    made = jax.jit(system.sound)
    log_mel = tiny.batch("vocoder")["mel"]
    np.testing.assert_allclose(made(again, log_mel), made(params, log_mel), atol=1e-5)
    for part in ("mpd", "mrd") if folded else params:
        jax.tree.map(np.testing.assert_array_equal, again[part], params[part])


def test_what_a_file_shows_of_its_sizes():
    for make, names in ((vocoder.base, ("mpd", "mrd")), (vocoder.version_2, ("mpd", "cqtd"))):
        config = make()
        config.update(channels=16 * 2 ** len(config.rates), width=4)
        config.octave_width = 6 if "cqtd" in names else config.octave_width
        shapes = api.abstract_params(api.build(config))
        params = jax.tree.map(lambda x: np.ones(x.shape, np.float32), shapes)
        state = published.write(params, config)
        found = make()
        found.update(published.sizes(state, found))
        assert found.discriminators == names
        assert found.to_dict() == config.to_dict()
    with pytest.raises(UserError, match="not the weights of a BigVGAN"):
        published.sizes({"generator.x": np.zeros(3)}, vocoder.base())


def test_a_trained_one_makes_sound_of_mel_as_the_codec_does(tmp_path):
    system, params = tiny.system("vocoder"), tiny.params("vocoder")
    codec = published.vocoder(system.config, params)
    log_mel = np.random.default_rng(0).standard_normal((30, 6)).astype(np.float32) - 3
    given = {"mel": log_mel[None], "mask": np.ones((1, 30), np.float32)}
    streams = system.generate(params, given, jax.random.split(jax.random.key(0), 1))
    np.testing.assert_allclose(codec.waveform(log_mel, system.recipe),
                               np.ravel(streams["audio"]), atol=1e-5)
    again = BigVGAN.from_recipe(json.loads(json.dumps(codec.recipe)), codec.arrays())
    assert again.recipe == codec.recipe
    # exported: the file that --vocoder takes, with the config that describes it
    state = published.file(published.write(params, system.config), 3)
    write_torch_zip(str(tmp_path / "g.pt"), state)
    for name, text in published.described(system.config).items():
        (tmp_path / name).write_text(text)
    read = BigVGAN.from_checkpoint(tmp_path / "g.pt")
    assert read.recipe["mel"] == codec.recipe["mel"] and read.config == codec.config
    np.testing.assert_allclose(read.waveform(log_mel, system.recipe),
                               codec.waveform(log_mel, system.recipe), atol=1e-5)
    safetensors.numpy.save_file(published.write(params, system.config), tmp_path / "g.safetensors")
    assert BigVGAN.from_checkpoint(tmp_path / "g.safetensors").config == codec.config


def test_segments_are_brought_to_one_peak_and_padding_is_silence():
    config = tiny.CONFIGS["vocoder"]()
    config.update(mel="sound", peak=0.95, discriminators=())
    system, params = api.build(config), {"generator": tiny.params("vocoder")["generator"]}
    batch = {"audio": np.random.default_rng(0).standard_normal((2, 16, 4)).astype(np.float32),
             "mask": np.ones((2, 16), np.float32)}
    batch["mask"][1, 9:] = 0
    true, made = system.shared(params, batch, None)
    np.testing.assert_allclose(np.abs(true).max(1), 0.95, rtol=1e-6)
    assert not np.any(true[1, 36:]) and np.any(true[1, :36])
    heard = mel.log_mel(jnp.asarray(true), system.recipe)
    np.testing.assert_allclose(made, system.sound(params, heard), atol=1e-6)
    quiet = system.shared(params, batch | {"audio": 0 * batch["audio"]}, None)[0]
    assert not np.any(quiet)


def test_the_mel_alone_counts_until_discriminators_begin():
    config = tiny.CONFIGS["vocoder"]()
    config.adversarial_from = 5
    system, params, batch = api.build(config), tiny.params("vocoder"), tiny.batch("vocoder")
    assert [turn.begins for turn in system.turns] == [5, 0]
    shared = system.shared(params, batch, None)
    early, late = (system.turn_loss("generator", params, shared, batch, None, jnp.int32(step))[1]
                   for step in (4, 5))
    assert early["loss"] == config.mel_weight * early["mel"] and not early["features"]
    assert late["fooling"] > 0 < late["features"]
    np.testing.assert_allclose(late["loss"], early["loss"] + late["fooling"] + 2 * late["features"],
                               rtol=1e-6)


def test_gradients_of_the_generator():
    """Through the anti-aliased activations and the weight norm, against differences."""
    system, params = tiny.system("vocoder"), tiny.params("vocoder")["generator"]
    log_mel, rng = tiny.batch("vocoder")["mel"], np.random.default_rng(1)
    weights = rng.standard_normal((2, 80)).astype(np.float32)
    along = jax.tree.map(lambda x: rng.standard_normal(x.shape).astype(np.float32), params)

    @jax.jit
    def heard(step):
        moved = jax.tree.map(lambda x, d: x + step * d, params, along)
        return jnp.sum(system.sound({"generator": moved}, log_mel) * weights)

    found = jax.jit(jax.grad(heard))(0.0)
    np.testing.assert_allclose(found, (heard(1e-3) - heard(-1e-3)) / 2e-3, rtol=5e-3)


def test_a_start_for_short_trainings_reads_scaled_mel():
    params = tiny.params("vocoder")["generator"]
    net = generator.network(tiny.system("vocoder").config)
    own, ours = (generator.folded(net, p)["conv_pre"]
                 for p in (params, generator.normalised(params)))
    log_mel = np.random.default_rng(0).standard_normal((1, 20, 6)).astype(np.float32) - 6
    found, want = (bigvgan_network.convolve(x, layer)[:, 3:-3]  # what is around the signal differs
                   for x, layer in ((log_mel, ours), (mel.normalise(log_mel), own)))
    np.testing.assert_allclose(found, want, atol=1e-4)


def test_the_depth_of_silence_counts_unless_it_is_called_nothing():
    quiet = 1e-4 * np.random.default_rng(0).standard_normal((1, 4096)).astype(np.float32)
    deep, shallow = (sum(losses.mel_distances(0 * quiet, quiet, 22050, silence))
                     for silence in (0.0, 1e-3))
    assert deep > 2 and shallow == 0


@pytest.mark.parametrize(("changes", "words"), [
    (dict(rates=(8, 8, 3), kernels=(16, 16, 6)), "system.rates.*divides n_fft"),
    (dict(kernels=(16, 16)), "system.kernels.*one a rate"),
    (dict(channels=12), "system.channels.*multiple of 8"),
    (dict(dilations=((1,), (3,))), "system.dilations.*one tuple"),
    (dict(block_kernels=(4,)), "system.block_kernels.*odd"),
    (dict(fmax=12000.0), "system.fmax.*at most 11025"),
    (dict(discriminators=("mpd", "mpd")), "system.discriminators.*each once"),
    (dict(discriminators=("mpx",)), "system.discriminators.*mpd"),
    (dict(peak=0.5), "system.peak.*0 where mel = 'features'"),
    (dict(discriminators=("cqtd",), octave_transforms=((100, 9, 24),)), "octave_transforms"),
])
def test_configs_that_cannot_be(changes, words):
    config = vocoder.tiny()
    config.update(changes)
    with pytest.raises(UserError, match=words):
        api.build(config)


def test_segments_that_are_too_short_are_refused():
    system = api.build(vocoder.tiny())
    batch = {n: np.zeros((1, 3, *s.shape[2:]), np.float32) for n, s in system.batch_spec.items()}
    with pytest.raises(UserError, match="data.segment.*>= 5 frames.*3"):
        jax.eval_shape(system.shared, api.abstract_params(system), batch, None)
