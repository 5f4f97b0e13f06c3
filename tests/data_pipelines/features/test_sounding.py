"""What drives Hallo2, as extraction makes it: sound on the pictures' clock, its audio tokens, where
a face lies, and a recogniser's embeddings."""

import json
import types

import numpy as np
import pytest

from avjax.encoders.driving.layers import SoundLayers
from avjax.errors import UserError
from avjax.signal import level, mel
from avjax.systems.tavid.acoustic.config import USDM_MEL
from avjax.weights.torch_writer import write_torch_zip
from data_pipelines import extract
from data_pipelines.features.tavid import frozen_encoders, sounding
from data_pipelines.features.tavid.given_faces import GivenFaces
from data_pipelines.store import dataset as store
from tests.data_pipelines.features.dialogues import OPTIONS, SIZE, Averages, rows
from tests.golden_files import relative_error, some, under

WIDTH = 24  # of the recorded projection's frames: 3 layers of 8


def test_audio_tokens_are_the_published_projections(tmp_path):
    recorded = under(some("hallo2_small_parts"), "audio_proj/")
    state = under(recorded, "sd/")
    write_torch_zip(tmp_path / "net.pth", {f"audioproj.{n}": x for n, x in state.items()})
    hearing = types.SimpleNamespace(width=WIDTH)
    tokens = sounding.load_tokens(str(tmp_path / "net.pth"), hearing)
    frames = np.random.default_rng(0).normal(size=(7, WIDTH)).astype(np.float32)
    made = tokens(frames)
    assert made.shape == (7, tokens.width) and tokens.recipe["tokens"] == 6
    # the recorded input's own windows, through the same network
    windows = recorded["in"].reshape(2, 7, 5, WIDTH)
    out = sounding._project(tokens.projection, tokens.params, windows)
    assert relative_error(out, recorded["out"]) < 1e-4
    again = tokens(np.concatenate([frames, frames[::-1]]))  # a frame's neighbours alone count
    np.testing.assert_allclose(again[:5].astype(float), made[:5].astype(float), atol=1e-2)
    assert tokens(frames[:0]).shape == (0, tokens.width)
    for change, message in ((dict(width=25), "another encoder's frames.*125 inputs.*found: 120"),):
        with pytest.raises(UserError, match=message):
            sounding.load_tokens(str(tmp_path / "net.pth"), types.SimpleNamespace(**change))
    write_torch_zip(tmp_path / "other.pth", {"conv.weight": np.ones(2)})
    with pytest.raises(UserError, match="no audio projection in the file"):
        sounding.load_tokens(str(tmp_path / "other.pth"), hearing)


@pytest.mark.parametrize("recipe", [{"kind": "puppet", "zoom": 1.2}, {"kind": "recorded"}])
def test_regions_lie_where_portraits_have_them(recipe):
    maps = sounding.regions(recipe, 16, 16)
    assert maps.shape == (16, 16, 3) and maps.min() >= 0 and maps.max() <= 1
    full, face, lip = np.moveaxis(maps, 2, 0)
    assert full[0, 0] > 0.9 > 0.2 > full[8, 8] and face[7, 8] > 0.8 > 0.1 > face[0, 0]
    at = np.unravel_index(lip.argmax(), lip.shape)
    assert 8 < at[0] < 14 and 6 <= at[1] <= 9 and face[at] < lip[at]
    mask = sounding.face_mask(recipe, 64, 64)
    assert set(np.unique(mask)) == {0, 1} and 0.1 < mask.mean() < 0.6
    finer = sounding.regions(recipe, 32, 32).reshape(16, 2, 16, 2, 3).mean((1, 3))
    np.testing.assert_allclose(finer, maps, atol=0.05)


def test_given_faces_are_looked_up_by_clip_and_speaker(tmp_path):
    clips = types.SimpleNamespace(dir=tmp_path, features={})
    for name, value in (("Anna", 1.0), ("Ben_C", 2.0), ("c1", 3.0)):
        np.save(tmp_path / f"{name}.face.npy", np.full((1, 4), value, np.float32))
    given = GivenFaces(str(tmp_path), clips, ("", "partner_"))
    assert given.width == 4
    found = given({"id": "c1"}, ["Anna", "Ben/C"])
    np.testing.assert_array_equal(found[:, 0], [1, 2])  # of several speakers, each by name
    assert given({"id": "c1"}, ["Anna"])[0, 0] == 3 and given({"id": "c2"}, ["Anna"])[0, 0] == 1
    with pytest.raises(store.Unusable, match="no face embedding"):
        given({"id": "c2"}, ["Carl"])
    np.save(tmp_path / "Carl.face.npy", np.ones(5, np.float32))
    with pytest.raises(UserError, match="not a face embedding of this model.*4 finite"):
        GivenFaces(str(tmp_path), clips, ("",))({"id": "c2"}, ["Carl"])
    with pytest.raises(UserError, match="no face embeddings.*no folder"):
        GivenFaces(str(tmp_path / "none"), clips, ("",))
    with pytest.raises(UserError, match="clips without face embeddings.*partner_face_embedding"):
        GivenFaces("clips", clips, ("", "partner_"))
    clips.features = {"face_embedding": types.SimpleNamespace(shape=(4,))}
    own = GivenFaces("clips", clips, ("",))
    np.testing.assert_array_equal(own({"face_embedding": np.arange(4)}, ["Anna"]), [[0, 1, 2, 3]])


@pytest.mark.slow
def test_features_that_drive_hallo2(clips, monkeypatch, tmp_path):
    monkeypatch.setattr(frozen_encoders, "load_pictures", lambda path: Averages())
    names = {row[f"{p}speaker"] for split in clips.splits for row in clips.source(split)
             for p in ("", "partner_")}
    for k, name in enumerate(sorted(names)):
        np.save(tmp_path / f"{name}.face.npy", np.full(6, k + 1, np.float32))
    made = extract.extract(clips.dir, tmp_path / "out", features="tavid", vae="a VAE",
                           audio_encoder="random", face_embeddings=str(tmp_path), scripts="none",
                           mel_statistics="usdm", **OPTIONS)
    recipes = made.recipes
    assert recipes["faces"] == recipes["faces"] | {"kind": "given", "width": 6}
    assert recipes["mel"] == USDM_MEL | {"level": level.RECIPE}
    encoder = SoundLayers.random(0)
    assert recipes["audio"] == json.loads(json.dumps(encoder.recipe))
    clip = rows(clips, "valid")
    for name, row in rows(made, "valid").items():
        frames = len(row["latents"])
        assert row["audio"].shape == (frames, 2, encoder.width)
        sound = level.normalised(clip[name]["audio"][:frames * 882] / np.float32(32768), 22050)
        np.testing.assert_allclose(row["mel"][:, 0],
                                   mel.normalise(mel.log_mel(sound, USDM_MEL), USDM_MEL), atol=2e-4)
        own = encoder(frozen_encoders.at_16k(sound), frames)
        np.testing.assert_allclose(row["audio"][:, 0].astype(float), own.astype(float), atol=2e-2)
        who = [sorted(names).index(clip[name][f"{p}speaker"]) + 1 for p in ("", "partner_")]
        np.testing.assert_array_equal(row["faces"][:, 0], who)
        np.testing.assert_array_equal(row["regions"][1], sounding.regions(
            recipes["portraits"], SIZE // 8, SIZE // 8))
        assert row["face_mask"].shape == (2, SIZE, SIZE)
    for wrong, message in ((dict(audio_tokens="net.pth"), "audio tokens of no sound"),
                           (dict(mel_statistics="other"), "mel_statistics")):
        with pytest.raises(UserError, match=message):
            extract.extract(clips.dir, tmp_path / "x", features="tavid", **wrong, **OPTIONS)
