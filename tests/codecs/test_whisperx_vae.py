"""WhisperX-VAE's network against recorded numbers; padding, halos, and files that are refused."""

import ast

import jax
import numpy as np
import pytest

from avjax.codecs import whisperx_vae
from avjax.codecs.published import whisperx_vae as published
from avjax.encoders.published.whisper import import_params
from avjax.encoders.whisper import WhisperConfig, encode
from avjax.errors import UserError
from tests.golden_files import cases, relative_error, some, under

HOP = whisperx_vae.HOP
ENCODE, DECODE, ACOUSTIC = (jax.jit(f, static_argnums=1) for f in (
    whisperx_vae.encode, whisperx_vae.decode, whisperx_vae.acoustic))


@pytest.fixture(scope="module")
def network():
    params, _ = published.split(under(some("whisperx_vae"), "sd/"))
    return params, published.config_of(params)


@pytest.mark.parametrize("gold", cases("whisperx_vae"))
def test_recorded_numbers(gold):
    params, whisper = published.split(under(gold, "sd/"))
    config = published.config_of(params)
    wav_BN, latent_BTZ = gold["wav"][:, 0], gold["latent"]
    frames_B = np.full(len(wav_BN), wav_BN.shape[1] // HOP)
    heads = ast.literal_eval(str(gold["whisper"]))["n_audio_head"]
    whisper = import_params(whisper)
    positions, bands = len(whisper["positions"]), gold["mel"].shape[2]
    with jax.default_matmul_precision("float32"):
        semantic = encode(whisper, WhisperConfig(heads, positions, bands),
                          gold["mel"][:, 0].transpose(0, 2, 1))["out"]
        acoustic = ACOUSTIC(params, config, wav_BN, frames_B)
        latent = ENCODE(params, config, wav_BN, semantic[:, :2 * frames_B[0]], frames_B)
        decoded = DECODE(params, config, latent_BTZ, frames_B)
    assert relative_error(semantic, gold["semantic"]) < 1e-4
    assert relative_error(acoustic.transpose(0, 2, 1), gold["acoustic"]) < 1e-4
    assert relative_error(latent, latent_BTZ) < 1e-4
    assert relative_error(decoded, gold["decoded"][:, 0]) < 1e-4


def test_rows_of_a_batch_do_not_depend_on_padding(network):
    params, config = network
    rng = np.random.default_rng(0)
    latent_BTZ = rng.standard_normal((2, 6, 32)).astype(np.float32)
    latent_BTZ[1] = latent_BTZ[0]
    both = DECODE(params, config, latent_BTZ, np.array([6, 4]))
    latent_BTZ[1, 4:] = 1e3  # padding that is not looked at
    again = DECODE(params, config, latent_BTZ, np.array([6, 4]))
    np.testing.assert_array_equal(both, again)
    assert not np.array_equal(both[0, :4 * HOP], both[1, :4 * HOP])  # it ends there
    wav_BN = rng.standard_normal((2, 6 * HOP)).astype(np.float32)
    width = params["vae.in_proj.weight"].shape[1]
    semantic = rng.standard_normal((2, 12, width)).astype(np.float32)
    both = ENCODE(params, config, wav_BN, semantic, np.array([6, 4]))
    wav_BN[1, 4 * HOP:] = 0  # as if it had been padded with silence
    semantic[1, 8:] = 0
    again = ENCODE(params, config, wav_BN, semantic, np.array([6, 4]))
    np.testing.assert_array_equal(both[:, :4], again[:, :4])


def test_a_halo_reaches_as_far_as_the_network(network):
    """A change one frame outside the halo changes nothing, one well inside does."""
    params, config = network
    halo, at = config.decoder_halo, config.decoder_halo + 1
    latent = np.random.default_rng(0).standard_normal((5, 2 * halo + 3, 32)).astype(np.float32)
    latent[:] = latent[0]
    for row, place in enumerate((0, -1, at - 3, at + 3), 1):
        latent[row, place] += 3
    made = DECODE(params, config, latent, np.full(5, latent.shape[1]))[:, at * HOP:(at + 1) * HOP]
    moved = np.abs(made - made[0]).max(1)
    assert (moved[1:3] < 1e-6).all() and (moved[3:] > 1e-5).all(), moved


def test_other_weights_are_refused(network):
    params = dict(network[0])
    with pytest.raises(UserError, match=r"not the weights of a WhisperX-VAE.*missing.*CodecEnc"
                                        r".block.0.bias.*spare.*CodecDec.model.6.weight"):
        params["CodecEnc.spare"] = np.ones(2)
        params["CodecDec.model.6.weight"] = params["CodecDec.model.6.weight"][..., 1:]
        del params["CodecEnc.block.0.bias"]
        published.config_of(params)
    with pytest.raises(UserError, match="not the weights of a WhisperX-VAE.*found: none of them"):
        published.config_of(published.split({"conv.weight": np.ones((2, 2, 3))})[0])
    narrow = dict(network[0])
    narrow["vae.in_proj.weight"] = narrow["vae.in_proj.weight"][:62]
    narrow["vae.in_proj.bias"] = narrow["vae.in_proj.bias"][:62]
    narrow["vae.out_proj.weight"] = narrow["vae.out_proj.weight"][:, :31]
    with pytest.raises(UserError, match="other frames.*32 numbers every 960.*31 every 960"):
        published.config_of(narrow)
