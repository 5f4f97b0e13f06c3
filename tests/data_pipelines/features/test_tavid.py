"""Dialogues -> TAVID's features: all columns on one clock, nothing of another party."""

import json
import types

import cv2
import numpy as np
import pytest

from avjax.encoders import portrait
from avjax.encoders import units as units_lib
from avjax.errors import UserError
from avjax.signal import level, mel, resample
from avjax.systems import api
from avjax.systems.tavid.speaker import config as speaker_mapper
from configs import tavid as full_size
from configs import tavid_quickstart
from data_pipelines import decode, extract
from data_pipelines.features.common import clips as common
from data_pipelines.features.common import painter
from data_pipelines.features.tavid import extract as tavid
from data_pipelines.features.tavid import frozen_encoders, script
from data_pipelines.features.tavid.tokenizer import DialogueTokenizer, marks
from data_pipelines.loading import loader
from data_pipelines.puppets import build, face_code, render
from data_pipelines.store import dataset as store
from data_pipelines.store.schema import Feature
from tests.data_pipelines.features.dialogues import OPTIONS, SIZE, UNITS, Averages, rows


def test_dialogues_of_three_become_rows_of_every_part(tmp_path, monkeypatch):
    """Text, sound and pictures of three, as the quickstart's parts for three read them."""
    build.prepare(tmp_path / "clips", sentences=3, valid=1, test=1, speakers=4, held_out=3,
                  dialogues=2, people=3, turns=4, seed=2, progress=False)
    monkeypatch.setattr(frozen_encoders, "load_pictures", lambda path: Averages())
    made = extract.extract(tmp_path / "clips_dialogues", tmp_path / "features", features="tavid",
                           vae="a VAE", **OPTIONS)
    assert made.splits == {"train": 2, "valid": 1, "test_speaker": 1}
    records = rows(store.open_dataset(tmp_path / "clips_dialogues"), "train")
    for name, row in rows(made, "train").items():
        assert row["units"].shape == (2 * len(row["latents"]), 3)
        assert set(row["turns"][:, 0]) == {0, 1, 2} == set(row["token_speaker"]) - {-1}
        for s in range(3):
            side = records[f"{name[:-1]}{s}"]
            np.testing.assert_array_equal(row["identity"][s], side["identity"])
            assert json.loads(row["speakers"])[s] == side["speaker"]
            audio = level.normalised(side["audio"][:882 * len(row["latents"])]
                                     / np.float32(32768), 22050)
            np.testing.assert_allclose(row["mel"][:, s], mel.normalise(mel.log_mel(audio)),
                                       atol=2e-4)
    for part in ("text", "acoustic", "temporal", "mapper", "speaker"):
        config = tavid_quickstart.get_config(f"{part}-three").system
        config.unlock()
        units = config.mapper if "mapper" in config else config
        if "num_units" in units:
            units.num_units = UNITS
        if part == "text":
            config.vocab, config.filler = 99, -1
        if part == "temporal":
            config.latent_size, config.context = (SIZE // 8, SIZE // 8), 2
        if part == "speaker":
            config.size, config.face_dim = SIZE, portrait.WIDTH
        system, rng = api.build(config), np.random.default_rng(0)
        assert loader.check_features(made, system.example_spec), part
        for row in rows(made, "train").values():
            built = system.rows.build([row], rng)
            for name, spec in system.batch_spec.items():
                assert built[name].shape == tuple(spec.shape[1:]), (part, name)
            if part == "text":
                assert set(built["token_speaker"][:int(built["tokens_length"])]) - {-1} <= {0, 1, 2}
                assert (built["units"][:int(built["units_length"])] < UNITS).all()


def test_columns_of_a_dialogue_share_one_clock(clips, features):
    # either side is one example
    assert features.splits == {"train": 3, "valid": 1, "test_speaker": 2}
    fit = DialogueTokenizer.from_codec(features.recipes["tokens"], features.codec("tokenizer"))
    for split in features.splits:
        records = rows(clips, split)
        for name, row in rows(features, split).items():
            clip, other = records[name], records[f"{name[:-1]}1"]
            frames = len(clip["audio"]) // 882
            assert len(row["units"]) == 2 * frames and len(row["mel"]) == 441 * 2 * frames // 256
            assert len(row["latents"]) == len(row["motion"]) == frames
            assert json.loads(row["speakers"]) == [clip["speaker"], clip["partner_speaker"]]
            for party, side in enumerate((clip, other)):
                audio = level.normalised(side["audio"][:882 * frames] / np.float32(32768), 22050)
                np.testing.assert_allclose(row["mel"][:, party], mel.normalise(mel.log_mel(audio)),
                                           atol=2e-4)
                k = np.arange(0, frames, 7)
                for column, values in (("face", row["motion"][:, party, :16]),
                                       ("pose_z", row["motion"][:, party, 16:])):
                    exact = [np.interp(k / 25, np.arange(len(side[column])) / 30, x)
                             for x in side[column].T]
                    np.testing.assert_allclose(values[k], np.stack(exact, 1), atol=1e-4)
                shown = Averages().encode(row["portraits"][party][None])[0]
                np.testing.assert_array_equal(row["reference"][party], shown)
                np.testing.assert_array_equal(row["identity"][party], side["identity"])
                face = face_code.decode(row["motion"][:1, party, :16], clips.codec("face"))
                pose = resample.interpolate(side["pose"], np.zeros(1))
                picture = render.render(face, pose, side["identity"], SIZE, 1.2)
                np.testing.assert_allclose(row["latents"][0, party], Averages().encode(picture)[0],
                                           atol=2e-3)
            said = script.parse(row["text"], names=json.loads(row["speakers"]))
            np.testing.assert_array_equal(row["tokens"], fit.encode(said).tokens)
            spoken = [e for e in json.loads(clip["events"]) if e["kind"] in ("turn", "backchannel")]
            assert len(row["turns"]) == len(spoken)
            for (speaker, a, b, start, end, _), e in zip(row["turns"],
                                                         sorted(spoken, key=lambda e: e["start"]),
                                                         strict=True):
                assert speaker == e["speaker"] and 0 <= a < b <= len(
                    row["tokens"]) and 0 <= start < end <= 2 * frames
                assert abs(start / 50 - e["start"]) < 0.011 and speaker in row["token_speaker"][a:b]
    voices = np.concatenate([r["voices"] for r in rows(features, "train").values()])
    np.testing.assert_allclose(voices.mean(0), 0, atol=1e-4)
    assert {str(n) for n in features.codec("speakers")["names"]} == {"ada", "ben", "cleo"}
    new = {n for r in rows(features, "test_speaker").values() for n in json.loads(r["speakers"])}
    assert new == {"zoe", "zoe2", "zoe3"}


def test_full_size_configs_read_what_their_extraction_writes(clips, features):
    """Names, widths and rates of every part of configs/tavid.py, for the options in its header."""
    assert features.features["faces"].shape == (2, portrait.WIDTH)
    source = frozen_encoders.Source(clips, ("", "partner_"), painter.Painter(clips, 512))
    vae = types.SimpleNamespace(latent_shape=lambda height, width: (height // 8, width // 8, 4))
    named = types.SimpleNamespace(kind="", recipe={"kind": ""})
    encoders = frozen_encoders.Encoders(named, named, None,
                                        portrait.PortraitEncoder(portrait.WIDTH), source.painter,
                                        vae)
    made = types.SimpleNamespace(dir="512", features=tavid._schema(source, encoders),
                                 recipes={"mel": mel.SPEECH})
    for part in full_size.PARTS:
        if part == "vae":  # reads what `--features=pictures --size=512` writes
            made.features["pictures"] = Feature((None, 512, 512, 3), "uint8", "", "", 25)
        made.recipes["mel"] = tavid.MEL["usdm" if part == "voicebox" else "avflow"]
        system = api.build(full_size.get_config(part).system)
        assert loader.check_features(made, system.example_spec)
    vocabulary = 30522 + len(marks(2))
    assert vocabulary <= full_size.get_config("text").system.vocab < vocabulary + 8
    assert full_size.get_config("speaker").optimizer.weight_decay == 0.05


def test_units_are_of_each_whole_channel(clips, features):
    encoder = units_lib.from_recipe(features.recipes["units"], features.codec("units"))
    for name, row in rows(features, "valid").items():
        clip = rows(clips, "valid")[name]
        for party, prefix in enumerate(("", "partner_")):
            whole = frozen_encoders.at_16k(common.to_float(clip[f"{prefix}audio"]))
            assert (encoder([whole])[0][:len(row["units"])] == row["units"][:, party]).mean() > 0.99
    for row in rows(features, "train").values():
        for party in (0, 1):
            own = row["turns"][row["turns"][:, 0] == party]
            silent = np.ones(len(row["units"]), bool)
            for start, end in own[:, 3:5]:
                silent[max(0, start - 5):end + 5] = False
            assert (row["units"][silent, party] == 0).mean() > 0.8  # the filler
    assert len(np.unique(np.concatenate([r["units"].ravel()
                                         for r in rows(features, "train").values()]))) > UNITS // 2
    with pytest.raises(UserError, match="units outside the codebook.*0 to 11.*12"):
        common.check_units(np.array([[3, 12]]), UNITS, "clip")


def test_published_units_tell_which_is_silence(clips, features, monkeypatch):
    fitted = units_lib.from_recipe(features.recipes["units"], features.codec("units"))
    turned = units_lib.UnitEncoder(fitted.frames, np.roll(fitted.centroids_KD, 3, axis=0))
    monkeypatch.setattr(units_lib, "published", lambda *args, **options: turned)
    job = types.SimpleNamespace(once=lambda name, make: make())
    source = frozen_encoders.Source(clips, ("", "partner_"), None)
    encoder = frozen_encoders.fit_units(job, source, "train", "xlsr.pt", 0, "centroids.npy", 35, 0)
    assert encoder.recipe == turned.recipe | {"filler": 3}


def test_long_dialogues_are_cut_where_nobody_speaks(clips, features, folder):
    pieces = extract.extract(clips.dir, folder / "pieces", features="tavid", max_seconds=9.0,
                             video=0.0, **OPTIONS)
    assert "motion" not in pieces.features and "portraits" not in pieces.features
    whole, parts = rows(features, "train"), rows(pieces, "train")
    assert len(parts) > len(whole)
    for name, row in whole.items():
        own = [p for n, p in parts.items() if n.split(".")[0] == name]
        assert sum(len(p["units"])
                   for p in own) == len(row["units"]) and max(len(p["units"]) for p in own) <= 450
        at, said = 0, []
        for p in own:
            agree = (p["units"] == row["units"][at:at + len(p["units"])]).mean()
            assert agree == 1  # not those of the piece encoded alone
            assert len(p["mel"]) == 441 * len(p["units"]) // 256
            spans = p["turns"][:, 3:5]
            assert (spans >= 0).all() and (spans <= len(p["units"])).all()
            said += [s + at for s in spans[:, 0]]
            np.testing.assert_array_equal(p["voices"], row["voices"])  # of the whole recording
            at += len(p["units"])
        np.testing.assert_allclose(said, row["turns"][:, 3], atol=1)


def test_decoder_gives_every_party_its_own(clips, features, monkeypatch):
    decoder = decode.Decoder.from_dataset(features, iterations=2)
    row = features.source("valid")[0]
    parties = decoder.speakers({n: row[n] for n in ("units", "mel", "latents", "voices")})
    assert len(parties) == 2 and decoder.fps == 25 and decoder.sample_rate == 22050
    np.testing.assert_array_equal(parties[1]["mel"], row["mel"][:, 1])
    np.testing.assert_array_equal(parties[1]["latents"], row["latents"][:, 1])
    assert parties[0]["units"].shape == row["units"].shape[:1] and parties[0]["voices"].shape == (
        256,)
    assert decoder.speakers(parties[0])[0].keys() == parties[0].keys()
    wave = decoder.waveform(parties[0])
    assert abs(len(wave) / 22050 - len(row["units"]) / 50) < 0.02
    with pytest.raises(UserError, match="nothing here reads faces.*--reader"):
        decoder.motion_codes(parties[0])
    # no VAE is needed for what follows
    monkeypatch.setattr(type(decoder._family), "_pictures", property(lambda family: cv2))
    truth = decoder.speakers({"motion": row["motion"]})[1]
    assert decoder.has_motion(truth) and not decoder.has_audio(truth) and decoder.has_face
    clip = clips.source("valid")[0]
    np.testing.assert_allclose(decoder.face(truth)[::5], resample.interpolate(
        clip["partner_face"], np.arange(len(row["motion"]))[::5] * 1.2), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(decoder.pose(truth)[:, :4], axis=1), 1, atol=1e-5)
    frames = decoder.frames({"motion": truth["motion"][:3]}, identity=row["identity"][1])
    assert frames.shape == (3, SIZE, SIZE, 3)  # drawn as the corpus frames it


@pytest.mark.parametrize("options, message", [
    (dict(tokens="vocab.txt"), "missing vocabulary"),
    (dict(video=1.5), "no such video.*--video.*<= 1"),
    (dict(centroids="x.npy"), "unknown unit_encoder"),
    (dict(fit_split="test"), "unknown fit_split"),
    (dict(max_seconds=0.0), "no such max_seconds"),
])
def test_unknown_choices(clips, folder, options, message):
    with pytest.raises(UserError, match=message):
        extract.extract(clips.dir, folder / "wrong", features="tavid", **(OPTIONS | options))
    assert not (folder / "wrong").exists()


def test_clips_of_one_speaker_teach_its_voice(folder, clips):
    """Without a partner there is one speaker an example, which the Speaker Mapper reads."""
    made = extract.extract(folder / "clips", folder / "alone", features="tavid", **OPTIONS)
    example = made.source("train")[0]
    assert example["portraits"].shape == (1, SIZE, SIZE, 3) and example["mel"].shape[1] == 1
    assert len(example["mel"]) == 441 * len(example["units"]) // 256
    c = speaker_mapper.tiny()
    c.speakers, c.size, c.face_dim = 1, SIZE, made.features["faces"].shape[1]
    assert loader.check_features(made, api.build(c).example_spec)
