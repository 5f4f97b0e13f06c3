"""Faces, poses and sound of streams that have not ended, and of decoders that know whole streams
only."""

import jax
import numpy as np
import pytest

from avjax.signal import mel, resample
from avjax.systems import api
from avjax.systems.head_vae import system as head_vae
from data_pipelines import decode
from data_pipelines.features.avflow import head_pose, head_stream
from data_pipelines.live.decoder import StreamedDecoder
from data_pipelines.live.parts import Pictures, Settings, Sound
from data_pipelines.puppets import face_code

RECIPES = {"mel": mel.RECIPE, "face": {"kind": "puppet"}, "head": {"kind": "linear"},
           "family": {"kind": "avflow"}}
SETTINGS = Settings(block=4, ahead=0, iterations=1)


@pytest.fixture(scope="module")
def codecs():
    articulators = np.random.default_rng(0).standard_normal((20, face_code.WIDTH)) * 0.1
    return {"face": face_code.fit(articulators, 0),
            "pose": {"mean": np.eye(1, 7, dtype=np.float32)[0], "std": np.full(7, 0.01)}}


@pytest.fixture(scope="module")
def streams():
    rng = np.random.default_rng(1)
    return {"mel": rng.standard_normal((40, 80)).astype(np.float32),
            "face": rng.standard_normal((40, face_code.WIDTH)).astype(np.float32),
            "head": rng.standard_normal((40, 7)).astype(np.float32)}


def test_a_head_vae_sees_a_window(monkeypatch):
    monkeypatch.setattr(head_stream, "BEFORE", 40)
    config = head_vae.released()
    config.d_ff = 32
    arrays = {"/".join(k.key for k in path): np.asarray(x) for path, x in
              jax.tree_util.tree_leaves_with_path(
                  api.new_params(api.build(config)))}
    recipe = {"kind": "vae", "system": config.to_dict()}
    latent_TZ = np.sin(np.arange(100)[:, None] / 7 + np.arange(8)).astype(np.float32)
    whole = head_pose.decode(recipe, arrays, latent_TZ)

    def streamed(sizes, latent_TZ=latent_TZ):
        stream, at, parts = head_stream.StreamedHead(recipe, arrays), 0, []
        for size in (*sizes, len(latent_TZ)):
            parts.append(stream.feed(latent_TZ[at:at + size]))
            at += size
        return [*parts, stream.finish()], stream.look_ahead

    parts, look_ahead = streamed((1, 30, 0, 12))
    made = np.concatenate(parts)
    assert made.shape == whole.shape
    assert np.abs(made - whole).max() < 0.5 * whole.std()
    np.testing.assert_array_equal(np.concatenate(streamed(())[0]), made)
    other = latent_TZ.copy()
    other[60:] += 1
    first = np.flatnonzero((np.concatenate(streamed((), other)[0]) != made).any(1))[0]
    assert 60 - look_ahead <= first <= 60 - head_stream.AHEAD


@pytest.mark.parametrize("mode", resample.MODES)
def test_a_head_vae_decodes_before_or_after_resampling(mode, codecs):
    """In mode "released" at the mel's rate, as published; streamed as many frames as at once, and
    by a window nearly the same."""
    config = head_vae.released()
    config.d_ff = 32
    params = api.new_params(api.build(config))
    arrays = {"/".join(k.key for k in path): np.asarray(x)
              for path, x in jax.tree_util.tree_leaves_with_path(params)}
    head = {"kind": "vae", "system": config.to_dict(), "resample": mode}
    decoder = decode.Decoder(RECIPES | {"head": head, "face": {"kind": "puppet", "resample": mode}},
                             codecs | {"head": arrays})
    time_T1 = np.arange(601)[:, None]
    streams = {"head": np.sin(time_T1 / 21 + np.arange(8)).astype(np.float32),
               "face": np.cos(time_T1 / 9 + np.arange(face_code.WIDTH)).astype(np.float32)}
    whole = decoder.family.pose_z(streams)
    other = mode == "timestamps"
    rate_first = head_pose.decode(head, arrays, streams["head"])
    assert (np.abs(resample.from_features(rate_first, 30, mode=mode) - whole).max() > 1e-4) == other
    assert len(whole) == len(decoder.face(streams)) == 209
    motion = decoder.family.live_motion()
    fed = [motion.feed({n: x[first:first + 50] for n, x in streams.items()})
           for first in range(0, 601, 50)]
    face_NF, pose_NP = (np.concatenate(x) for x in zip(*fed, motion.finish(), strict=True))
    np.testing.assert_allclose(face_NF, decoder.face(streams), atol=1e-6)
    assert pose_NP.shape == whole.shape and np.abs(pose_NP - whole).max() < 0.5 * whole.std()
    assert motion.look_ahead[1].rate == (30 if other else mel.FRAME_RATE)


def test_scores_are_of_what_is_streamed(codecs, streams):
    decoder = StreamedDecoder(RECIPES, codecs, SETTINGS)
    sound = Sound(decoder, SETTINGS)
    parts = [sound.feed({name: x[first:first + 7] for name, x in streams.items()})
             for first in range(0, 40, 7)]
    np.testing.assert_array_equal(np.concatenate([*parts, sound.finish()]),
                                  decoder.waveform(streams))
    usual = decode.Decoder(RECIPES, codecs)
    np.testing.assert_array_equal(decoder.face(streams), usual.face(streams))
    np.testing.assert_array_equal(decoder.pose(streams), usual.pose(streams))
    assert "4 frames" in decoder.decoding["streamed"] and not usual.decoding


def test_motion_that_is_decoded_as_a_whole_comes_at_the_end(codecs, streams, monkeypatch):
    decoder = decode.Decoder(RECIPES, codecs)
    monkeypatch.setattr(type(decoder.family), "live_motion", lambda family: None)
    pictures = Pictures(decoder, identity=np.zeros(8))
    assert pictures.look_ahead[0].seconds == np.inf
    halves = [{name: x[part] for name, x in streams.items()}
              for part in (slice(0, 25), slice(25, 40))]
    assert not [picture for half in halves for picture in pictures.feed(half)]
    made = np.stack(list(pictures.finish()))
    np.testing.assert_array_equal(made, decoder.frames(streams, identity=np.zeros(8)))
    assert not list(Pictures(decoder, identity=np.zeros(8)).finish()), "nothing was fed"
