"""Hallo2's release in its owners' layout into a workdir; a sound with a portrait into a video."""

import json

import cv2
import jax
import numpy as np
import pytest
import safetensors.numpy

from avjax.codecs import autoencoder_kl
from avjax.codecs.published.sd_vae import export_vae
from avjax.encoders.driving import layers
from avjax.errors import UserError
from avjax.systems.tavid.vae import config as vae
from avjax.systems.tavid.visual.names import net
from avjax.weights.torch_writer import write_torch_zip
from configs import base
from data_pipelines.features.hallo2 import release as hallo2
from data_pipelines.media import read_audio, video, write_media
from launch.jobs import generate, release
from tests.golden_files import config as recorded_config
from tests.golden_files import some, under
from tests.systems.tavid_sound_tiny import random_params, tiny

pytestmark = pytest.mark.usefixtures("imports_on_one_device")
LAYERS, WIDTH = 3, 32  # of the recorded wav2vec 2.0


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """(folder, config.system): a small net.pth, VAE and wav2vec 2.0 under the published names."""
    folder = tmp_path_factory.mktemp("pretrained_models")
    system = tiny(**{"audio.layers": LAYERS, "audio.width": WIDTH})
    for inside in ("hallo2", "sd-vae-ft-mse", "wav2vec/wav2vec2-base-960h"):
        (folder / inside).mkdir(parents=True)
    write_torch_zip(str(folder / "hallo2/net.pth"), net.export_net(random_params(system), system))
    c = vae.published()
    c.update(dict(channels=(32, 32, 32, 32), layers=1, size=32))
    shapes = autoencoder_kl.AutoencoderKL(c).init
    state = export_vae(small_vae(shapes), c)
    safetensors.numpy.save_file(state, folder / hallo2.VAES[0])
    arrays = some("wav2vec2_ctc")
    sizes = recorded_config(arrays)
    heard = folder / hallo2.HEARING[0]
    safetensors.numpy.save_file(dict(under(arrays, "sd/")), heard)
    heads = {"num_attention_heads": sizes.get("num_attention_heads", 4)}
    heard.with_name("config.json").write_text(json.dumps(sizes | heads))
    return folder, system


def small_vae(init):
    """Random parameters of a VAE; nothing is compiled."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(init, jax.random.key(0), jax.ShapeDtypeStruct((1, 32, 32, 3),
                                                                        np.float32))
    return jax.tree.map(lambda s: rng.normal(0, 0.1, s.shape).astype(np.float32)
                        + (len(s.shape) == 1), shapes["params"])


def experiment(system):
    config = base.get_config()
    config.system = system
    return config


@pytest.fixture(scope="module")
def imported(released, tmp_path_factory):
    """(workdir, what was told)."""
    folder, system = released
    workdir, told = tmp_path_factory.mktemp("jobs") / "hallo2", []
    release.import_folder("tavid.visual", str(folder), str(workdir), config=experiment(system),
                          say=told.append)
    return workdir, told


def test_what_the_folder_holds_is_told(released, imported):
    folder, _ = released
    workdir, told = imported
    assert [line.split(":")[0] for line in told] == ["network", "pictures", "sound", "faces"]
    recipes = json.loads((workdir / "recipes.json").read_text())
    assert recipes["portraits"] == {"kind": "recorded", "size": 32, "rate": 25}
    assert recipes["audio"]["width"] == LAYERS * WIDTH and recipes["faces"]["kind"] == "given"
    assert (workdir / "audio_encoder" / "model.safetensors").is_file()
    with pytest.raises(UserError, match="no visual network in the folder"):
        release.import_folder("tavid.visual", str(folder / "wav2vec"), str(workdir / "x"))


def test_another_encoder_than_the_networks(released, tmp_path):
    folder, system = released
    other = system.copy_and_resolve_references()
    other.audio.update(dict(layers=6, width=16))  # as many inputs
    with pytest.raises(UserError, match="another encoder.*expected: 6 layers of 16.*3 layers"):
        release.import_folder("tavid.visual", str(folder), str(tmp_path / "job"),
                              config=experiment(other))
    assert not (tmp_path / "job").exists()


@pytest.mark.slow
def test_a_sound_and_a_portrait_become_a_video(imported, tmp_path):
    workdir, _ = imported
    rng = np.random.default_rng(0)
    sound = np.sin(np.arange(8000) / 30).astype(np.float32) * 0.3
    write_media.write_wav(tmp_path / "said.wav", sound, 22050)
    cv2.imwrite(str(tmp_path / "me.png"), rng.integers(0, 255, (32, 32, 3), np.uint8))
    given = dict(audio=str(tmp_path / "said.wav"), portrait=str(tmp_path / "me.png"),
                 out=tmp_path / "out", seed=1)
    with pytest.raises(UserError, match="no face embedding; where: .*me.face.npy"):
        generate.generate(workdir, **given)
    np.save(tmp_path / "me.face.npy", rng.normal(size=16).astype(np.float32))
    files = generate.generate(workdir, **given)
    frames = 8000 // 882
    heard = read_audio(files["wav"], 22050)
    np.testing.assert_allclose(heard[:frames * 882], sound[:frames * 882], atol=1e-3)
    np.testing.assert_allclose(video.video_times(files["mp4"]), np.arange(frames) / 25, atol=1e-3)
    avatar = generate.Avatar(workdir)
    for change, message in (({"portrait": ""}, "nothing to show.*found: --audio"),
                            ({"audio": "none.wav"}, "none.wav")):
        with pytest.raises(UserError, match=message):
            avatar.prompt(**{n: given[n] for n in ("audio", "portrait")} | change)
    with pytest.raises(UserError, match="other weights than those"):
        avatar.prompt(**{n: given[n] for n in ("audio", "portrait")},
                      audio_encoder=str(other_weights(tmp_path)))


def other_weights(folder):
    """The same network with another number in it."""
    state = dict(under(some("wav2vec2_ctc"), "sd/"))
    name = sorted(state)[0]
    safetensors.numpy.save_file(state | {name: state[name] + 1}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"num_attention_heads": 4}))
    return folder / "model.safetensors"


def test_sound_is_laid_on_the_pictures_clock():
    """Frames as asked for, on any length; the same as the encoder gives on its own clock where the
    clocks agree, and nothing of what comes after."""
    encoder = layers.SoundLayers.random(0)
    sound = np.random.default_rng(0).normal(size=16000).astype(np.float32)
    whole = encoder(sound, 25)
    assert whole.shape == (25, encoder.width) and whole.dtype == np.float16
    np.testing.assert_array_equal(encoder(np.append(sound, sound), 25), whole)
    assert encoder(sound, 40).shape == (40, encoder.width)  # silence follows
    assert encoder(sound, 0).shape == (0, encoder.width)
