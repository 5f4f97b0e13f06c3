"""The published audio codec in Talker's slot: extraction, sound, streams, requests, and what is
refused. Its weights are those of the recording, as a published file holds them."""

import ast
import json
import types

import jax
import numpy as np
import pytest
import safetensors.numpy

from avjax.errors import UserError
from avjax.sharding.mesh import make_mesh
from avjax.signal.resample import resampled
from data_pipelines import decode, extract
from data_pipelines.features.common import clips as common
from data_pipelines.features.common import units
from data_pipelines.features.talker import audio_codec
from data_pipelines.features.talker.audio_codec import FILES, HOP, WhisperXVAE
from data_pipelines.features.talker.frontend import Encoder
from data_pipelines.live.decoder import StreamedDecoder
from data_pipelines.live.parts import Settings, Sound
from data_pipelines.loading import mixture
from tests.golden_files import some, under


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """As published: the autoencoder, all of its Whisper, and what its training left."""
    gold, folder = some("whisperx_vae"), tmp_path_factory.mktemp("codec")
    state = dict(under(gold, "sd/")) | {f"{name}.weight": np.ones(2, np.float32) for name in (
        "semantic_model.decoder.ln", "discriminator.0", "vae.prior")}
    safetensors.numpy.save_file(state, folder / "vae.safetensors")
    (folder / "config.json").write_text(json.dumps({"whisper": ast.literal_eval(
        str(gold["whisper"]))}))
    return folder / "vae.safetensors"


@pytest.fixture(scope="module")
def codec(file):
    return WhisperXVAE.from_checkpoint(str(file))


@pytest.fixture(scope="module")
def features(puppets_dataset, file, tmp_path_factory):
    """Extracted on four devices."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(units, "mesh", lambda: make_mesh({"data": 4}, jax.devices()[:4]))
        return extract.extract(puppets_dataset.dir, tmp_path_factory.mktemp("made") / "features",
                               features="talker", audio_codec=str(file), progress=False)


@pytest.fixture
def noise():
    return lambda frames: np.random.default_rng(frames).standard_normal((frames, 32)).astype("f4")


def test_extraction_writes_its_latents(puppets_dataset, features, codec):
    clip, example = puppets_dataset.source("train")[0], features.source("train")[0]
    audio_N = resampled(common.to_float(clip["audio"]), 22050)
    latent_TZ = codec.encode(audio_N)
    assert len(latent_TZ) == -(-len(audio_N) // HOP)
    np.testing.assert_allclose(example["audio"], latent_TZ[:len(example["audio"])], atol=1e-5)
    recipe = features.recipes["audio"]
    assert recipe["kind"] == "whisperx-vae" and recipe["weights"] == codec.recipe["weights"]
    assert recipe["level"] is None and "vae.out_proj.weight" in features.codec("audio")
    assert not any(name.startswith("CodecEnc") for name in features.codec("audio"))


def test_sound_is_the_codecs_own(features, codec, noise):
    decoder = decode.Decoder.from_dataset(features)
    streams = {"audio": noise(10)}
    made = decoder.waveform(streams)
    assert made.shape == (9600,) and decoder.sample_rate == 24000
    np.testing.assert_array_equal(made, codec.waveform(streams["audio"]))
    assert decoder.mel(streams).shape == (40, 80)
    assert decoder.sound_by == f"WhisperX-VAE {codec.recipe['weights']}" and not decoder.decoding
    settings = Settings(block=16)
    streamed = StreamedDecoder.from_dataset(features, settings=settings)
    np.testing.assert_allclose(streamed.waveform(streams), made, atol=1e-5)
    sound = Sound(streamed, settings)
    assert sound.look_ahead[0].frames == 3 + codec.config.decoder_halo + 0.5
    first = sound.feed({"audio": streams["audio"][:9]})
    rest = sound.feed({"audio": streams["audio"][9:]}), sound.finish()
    assert not len(first)
    np.testing.assert_allclose(np.concatenate([first, *rest]), made, atol=1e-5)
    asked = decode.Decoder.from_dataset(features, vocoder="griffin-lim")
    with pytest.raises(UserError, match="by their own codec.*--vocoder"):
        assert asked.sound_by and asked.decoding


def test_long_sound_is_coded_in_windows(codec, noise, monkeypatch):
    """What windows give is what the whole gives, and Whisper's windows are its own."""
    latent_TZ = noise(40)
    audio_N = np.random.default_rng(0).standard_normal(40 * HOP - 5).astype(np.float32) * 0.1
    whole = codec.waveform(latent_TZ), codec.encode(audio_N)
    monkeypatch.setattr(audio_codec, "WINDOW", 25)
    assert len(list(codec.chunks(latent_TZ))) == 5
    np.testing.assert_allclose(codec.waveform(latent_TZ), whole[0], atol=2e-5)
    np.testing.assert_allclose(codec.encode(audio_N), whole[1], atol=2e-4)
    assert whole[1].shape == (40, 32) and len(whole[0]) == 40 * HOP


def test_requests_find_the_encoder_again(features, codec, file, tmp_path):
    audio_N = np.random.default_rng(0).standard_normal(12000).astype(np.float32) * 0.1
    codecs = {name: features.codec(name) for name in features.codecs}
    front = Encoder.from_codecs(features.recipes, codecs)
    np.testing.assert_array_equal(front.audio(audio_N, 24000), codec.encode(audio_N))
    moved = codecs | {FILES: {"codec": np.array(str(tmp_path / "gone")), "whisper": np.array("")}}
    with pytest.raises(UserError, match=r"not kept with the features.*gone.*WORKDIR/audio_codec"):
        Encoder.from_codecs(features.recipes, moved, workdir=tmp_path).audio(audio_N, 24000)
    (tmp_path / "audio_codec").symlink_to(file.parent)
    front = Encoder.from_codecs(features.recipes, moved, workdir=tmp_path)
    np.testing.assert_array_equal(front.audio(audio_N, 24000), codec.encode(audio_N))
    other = features.recipes | {"audio": features.recipes["audio"] | {"weights": "0" * 16}}
    with pytest.raises(UserError, match="another audio codec than the model's.*0000"):
        Encoder.from_codecs(other, codecs).audio(audio_N, 24000)
    for bad in (np.zeros(0), np.array([0, np.nan])):
        with pytest.raises(UserError, match="unusable sound"):
            codec.encode(bad)
    with pytest.raises(UserError, match=r"wrong latent width.*32\).*31"):
        codec.waveform(np.zeros((4, 31)))
    with pytest.raises(UserError, match="not finite"):
        codec.waveform(np.full((4, 32), np.nan))
    with pytest.raises(UserError, match="do not fit its recipe.*vae.out_proj.bias"):
        arrays = {n: x for n, x in codecs["audio"].items() if n != "vae.out_proj.bias"}
        audio_codec.from_recipe(features.recipes["audio"], {"audio": arrays})


def test_a_mixture_with_the_stand_in_is_refused(puppets_dataset, features, tmp_path):
    stand_in = extract.extract(puppets_dataset.dir, tmp_path / "f", features="talker",
                               progress=False)
    parts = [types.SimpleNamespace(dataset=dataset) for dataset in (features, stand_in)]
    with pytest.raises(UserError, match="differ in the unit of 'audio'.*standard deviations"):
        mixture.check_alike(parts, ["audio"])


def test_files_that_are_refused(puppets_dataset, file, tmp_path):
    def made(**options):
        return extract.extract(puppets_dataset.dir, tmp_path / "out", features="talker",
                               progress=False, **options)

    state = safetensors.numpy.load_file(file)
    lone = {n: x for n, x in state.items() if not n.startswith("semantic_model.")}
    safetensors.numpy.save_file(lone, tmp_path / "lone.safetensors")
    whisper = {n.removeprefix("semantic_model."): x for n, x in state.items()
               if n.startswith("semantic_model.")}
    (tmp_path / "whisper").mkdir()
    safetensors.numpy.save_file(whisper, tmp_path / "whisper" / "model.safetensors")
    sizes = json.loads((file.parent / "config.json").read_text())["whisper"]
    (tmp_path / "whisper" / "config.json").write_text(json.dumps(sizes))
    both = dict(audio_codec=str(tmp_path / "lone.safetensors"), whisper=str(tmp_path / "whisper"))
    together = WhisperXVAE.from_checkpoint(both["audio_codec"], both["whisper"])
    assert together.recipe == WhisperXVAE.from_checkpoint(str(file)).recipe
    for options, message in (
            ({"audio_codec": both["audio_codec"]}, "lacks its Whisper.*--whisper=FILE"),
            ({"audio_codec": str(file), "whisper": both["whisper"]}, "a Whisper of its own"),
            ({"whisper": both["whisper"]}, "without the audio codec.*--audio_codec=FILE"),
            ({"audio_codec": str(file), "vocoder": "v.pt"}, "two things that make the sound"),
            ({"audio_codec": str(tmp_path / "none.pt")}, "no such weights.*--audio_codec="),
            ({"audio_codec": both["whisper"]}, "not the weights of a WhisperX-VAE")):
        with pytest.raises(UserError, match=message):
            made(**options)
    assert not (tmp_path / "out").exists()
