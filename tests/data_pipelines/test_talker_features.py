"""Clips -> Talker's features: framing, what the round trip costs, recipes, and how bad clips
fail."""

import json

import numpy as np
import pytest

from avjax.codecs import latents, motion
from avjax.errors import UserError
from avjax.signal import mel
from data_pipelines import decode, extract
from data_pipelines.features.common import clips as common
from data_pipelines.features.talker import extract as talker
from data_pipelines.features.talker.frontend import Encoder, face_motion, resampled
from data_pipelines.features.talker.phonemes import Phonemes
from data_pipelines.puppets import build, face_code
from data_pipelines.store import dataset as store
from data_pipelines.store.schema import Feature, arrays_hash, recipe_hash
from eval.metrics import lips

PUPPETS = dict(sentences=8, valid=3, test=2, speakers=3, progress=False)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return build.prepare(tmp_path_factory.mktemp("talker") / "clips", **PUPPETS)


@pytest.fixture(scope="module")
def features(clips, tmp_path_factory):
    return extract.extract(clips.dir, tmp_path_factory.mktemp("talker") / "features",
                           features="talker", progress=False)


@pytest.fixture(scope="module")
def decoder(features):
    return decode.Decoder.from_dataset(features)


def test_columns_and_lengths(clips, features):
    assert features.splits == clips.splits
    assert features.features["audio"].rate == features.features["motion"].rate == 25.0
    for split in features.splits:
        for clip, example in zip(clips.source(split), features.source(split), strict=True):
            frames = len(example["audio"])
            assert example["audio"].shape == (frames,
                                              32) and example["motion"].shape == (frames, 40)
            assert example["voice"].shape == (256,) and example["tokens"].dtype == np.int32
            assert 0 <= len(clip["audio"]) / 22050 * 25 - frames + 1 <= 3
            assert {k: example[k] for k in ("id", "speaker", "text", "words")} == {
                k: clip[k] for k in ("id", "speaker", "text", "words")}


def test_everything_can_be_had_back_from_recipes_and_codecs(clips, features):
    encoder = Encoder.from_codecs(features.recipes, {n: features.codec(n) for n in features.codecs})
    clip, example = clips.source("valid")[0], features.source("valid")[0]
    audio = common.to_float(clip["audio"])
    frames = len(example["audio"])
    np.testing.assert_array_equal(encoder.prompt(clip["text"]), example["tokens"])
    np.testing.assert_array_equal(encoder.audio(audio, 22050)[:frames], example["audio"])
    raw = face_motion(clip["face"], clip["pose_z"], 30.0)
    np.testing.assert_array_equal(encoder.motion_codec.encode(raw)[:frames], example["motion"])
    for name, codec in (("audio", encoder.audio_codec), ("motion", encoder.motion_codec),
                        ("voice", encoder.voice_encoder)):
        assert features.recipes[name]["arrays"] == arrays_hash(codec.arrays())
        assert encoder.recipes[name]["arrays"] == features.recipes[name]["arrays"]
    with pytest.raises(UserError, match="not a dataset of Talker's features"):
        Encoder.from_codecs({"mel": {}}, {})


def test_voice_is_another_utterance_of_the_speaker(clips, features, tmp_path):
    own = talker.extract(clips.dir, tmp_path / "own", voice="own", tokens="phonemes",
                         progress=False)
    encoder = Encoder.from_codecs(own.recipes, {n: own.codec(n) for n in own.codecs})
    for split in ("train", "test_speaker"):
        mine = {e["id"]: (e["speaker"], e["voice"])
                for e in own.source(split, ("id", "speaker", "voice"))}
        for example in features.source(split):
            others = [i for i, (_, v) in mine.items() if np.array_equal(v, example["voice"])]
            assert len(others) == 1 and mine[others[0]][0] == example["speaker"] and others[
                0] != example["id"]
    clip = clips.source("train")[0]
    prompt = encoder.prompt(clip["text"])  # the text as phonemes, with nothing to keep
    np.testing.assert_array_equal(own.source("train")[0]["tokens"], prompt)
    assert own.recipes["tokens"] == Phonemes().recipe and "tokenizer" not in own.codecs
    np.testing.assert_allclose(mine_of(own, clip["id"]),
                               encoder.voice(common.to_float(clip["audio"]), 22050), atol=1e-6)
    assert recipe_hash(own.recipes["voice"]) != recipe_hash(features.recipes["voice"])
    speakers = features.codec("speakers")
    assert speakers["voice"].shape == (3, 256) and speakers["first_motion"].shape == (3, 40)
    assert speakers["identity"].shape == (3, 8) and len(set(speakers["names"])) == 3
    name = str(speakers["names"][0])
    firsts = [e["motion"][0] for e in features.source("train") if e["speaker"] == name]
    np.testing.assert_allclose(speakers["first_motion"][0], np.mean(firsts, 0), atol=1e-5)


def mine_of(dataset, name):
    return next(e["voice"] for e in dataset.source("train", ("id", "voice")) if e["id"] == name)


def test_motion_survives_the_25_hz_clock(clips, features, decoder):
    """Lip closures of the decoded stream against the clips' own; the ceiling of F1_lips."""
    counts = np.zeros(3, np.int64)
    for split in ("valid", "test_speaker"):
        for clip, example in zip(clips.source(split), features.source(split), strict=True):
            true = face_code.lips(face_code.decode(clip["face"], clips.codec("face")))
            aperture, _ = decoder.lips(example)
            n = min(len(aperture), len(true[0]))
            assert abs(len(aperture) - len(true[0])) <= 2
            counts += lips.closure_counts(aperture[:n], true[0][:n], true[1][:n],
                                          lips.RECIPE["tau"])
            np.testing.assert_allclose(decoder.pose(example)[:n - 2], clip["pose"][:n - 2],
                                       atol=0.1)
            np.testing.assert_allclose(np.linalg.norm(decoder.pose(example)[:, :4], axis=1), 1,
                                       atol=1e-5)
    print(f"F1_lips through 25 Hz: {lips.f1(counts):.3f} on {counts[0] + counts[2]} closed frames")
    assert lips.f1(counts) > 0.95 and counts[0] > 20


def test_audio_survives_the_codec(clips, features, decoder):
    """The ceiling of mel distances, on sentences that the codec was not fitted on."""
    distances, shuffled = [], []
    for clip, example in zip(clips.source("valid"), features.source("valid"), strict=True):
        audio = resampled(common.to_float(clip["audio"]), 22050, latents.MEL["sample_rate"])
        true, made = mel.normalise(mel.log_mel(audio, latents.MEL),
                                   latents.MEL), decoder.mel(example)
        n = min(len(true), len(made))
        distances.append(np.abs(true[:n] - made[:n]).mean())
        shuffled.append(np.abs(true[:n] - made[:n][::-1]).mean())
    explained = float(features.codec("audio")["explained"])
    print(f"mel L1 of the codec: {np.mean(distances):.3f} (reversed {np.mean(shuffled):.3f}); "
          f"explained {explained:.3f}")
    assert np.mean(distances) < 0.22 and np.mean(distances) < 0.25 * np.mean(
        shuffled) and explained > 0.95


def test_the_decoder_serves_every_stream(clips, features, decoder, monkeypatch):
    example = features.source("valid")[0]
    streams = {"audio": example["audio"][:25], "motion": example["motion"][:25]}
    assert decoder.sample_rate == 24000 and decoder.face_kind == "puppet"
    assert decoder.has_audio(streams) and decoder.has_motion(streams)
    assert decoder.waveform(streams).shape == (24000,) and decoder.mel(streams).shape == (100, 80)
    assert decoder.face(streams).shape == (30, 16) and decoder.pose(streams).shape == (30, 7)
    pictures = decoder.frames({k: v[:3] for k, v in streams.items()}, identity=example["identity"])
    assert pictures.dtype == np.uint8 and len(pictures) == 4
    monkeypatch.setattr(decode, "AT_ONCE", 3)
    count, one_by_one = decoder.pictures({k: v[:3] for k, v in streams.items()},
                                         identity=example["identity"])
    assert count == 4 and (np.stack(list(one_by_one)) == pictures).all(), "drawn in batches"
    speech = {"audio": streams["audio"], "motion": streams["motion"][:0]}
    assert decoder.has_audio(speech) and not decoder.has_motion(speech) and not decoder.has_motion({
        })
    with pytest.raises(UserError, match="wrong latent width"):
        decoder.mel({"audio": np.zeros((3, 31))})
    with pytest.raises(UserError, match="wrong latent width"):
        decoder.face({"motion": np.zeros((3, 41))})


@pytest.mark.slow
def test_extraction_repeats_and_recipes_tell_datasets_apart(clips, features, tmp_path):
    again = talker.extract(clips.dir, tmp_path / "again", progress=False)
    assert again.checksums["recipes.json"] == features.checksums["recipes.json"]
    for split in features.splits:
        for a, b in zip(features.source(split), again.source(split), strict=True):
            for key, value in a.items():
                np.testing.assert_array_equal(value, b[key])
    other = talker.extract(build.prepare(tmp_path / "clips", **{**PUPPETS, "seed": 1}).dir,
                           tmp_path / "other",
                           progress=False)
    for name in ("audio", "motion", "voice", "tokens"):
        assert recipe_hash(other.recipes[name]) != recipe_hash(features.recipes[name]), name
    json.dumps(features.recipes)


# ---- clips made by hand

SPOKEN = {"id": Feature((), "str", "name"), "speaker": Feature((), "str", "who"),
          "text": Feature((), "str", "what"),
          "audio": Feature((None,), "int16", "speech", "1/32768", 24000.0)}


def spoken(i, frames=30, **extra):
    """Harmonics of a pitch under an envelope of its own."""
    rng = np.random.default_rng(i)
    t = np.arange(frames * 960) / 24000
    tone = sum(np.sin(2 * np.pi * (100 + 20 * i) * k * t) / k
               for k in range(1, 30)) * np.abs(np.sin(6 * t + i))
    noise = rng.normal(size=len(t)) * np.abs(np.sin(9 * t)) * 0.3
    return {"id": f"clip{i}", "speaker": "ann", "text": f"Sentence {i}.",
            "audio": (3000 * (tone + noise)).astype(np.int16),
            **extra}


def write(out, clips, features=None, **kw):
    return store.write_dataset(out, name="clips", description="for tests",
                               features=SPOKEN | (features or {}),
                               splits={"train": clips[:-1], "valid": clips[-1:]},
                               recipes=kw.pop("recipes", {}), **kw)


def given(rate=25.0, width=40):
    return {"motion": Feature((None, width), "float32", "motion", "", rate)}


STATISTICS = {"motion": {"mean": np.arange(40.0), "std": np.r_[np.zeros(1), np.full(39, 2.0)]}}


def test_given_motion_is_scored_by_its_own_statistics(tmp_path):
    rng = np.random.default_rng(0)
    raw = [rng.normal(size=(n, 40)).astype(np.float32) + np.arange(40, dtype=np.float32)
           for n in (30, 32, 28, 0, 30)]
    clips = [spoken(i, motion=m) for i, m in enumerate(raw)]
    dataset = talker.extract(write(tmp_path / "clips", clips, given(), codecs=STATISTICS,
                                   recipes={"motion": {"kind": "lia-x"}}).dir, tmp_path / "out",
                             progress=False)
    examples = list(dataset.source("train"))
    assert [len(e["motion"]) for e in examples] == [30, 30, 28, 0]
    # the longer is cut; speech alone is whole
    assert [len(e["audio"]) for e in examples] == [30, 30, 28, 30]
    np.testing.assert_allclose(examples[0]["motion"][:, 1:], (raw[0] - np.arange(40))[:, 1:] / 2,
                               atol=1e-5)
    assert dataset.recipes["motion"]["kind"] == "lia-x" and dataset.codec("motion")[
        "std"].min() > 9e-7
    assert dataset.codec("speakers")["identity"].shape == (1, 0)
    assert dataset.recipes["voice"]["of"] == "own"  # a speaker here may be a collection
    decoder = decode.Decoder.from_dataset(dataset)
    assert decoder.has_motion(examples[0]) and not decoder.draws and not decoder.has_motion(
        examples[3])
    with pytest.raises(UserError, match="nothing here can draw this motion.*lia-x"):
        decoder.frames(examples[0])


def test_speech_alone(tmp_path):
    dataset = talker.extract(write(tmp_path / "clips", [spoken(i) for i in range(4)]).dir,
                             tmp_path / "out", progress=False)
    assert all(len(e["motion"]) == 0 and len(e["audio"]) == 30 for e in dataset.source("train"))
    assert dataset.recipes["motion"] == {"kind": "none"} and "motion" not in dataset.codecs
    assert Encoder.from_codecs(dataset.recipes,
                               {n: dataset.codec(n) for n in dataset.codecs}).motion_codec is None
    np.testing.assert_array_equal(dataset.codec("speakers")["first_motion"], np.zeros((1, 40)))


def test_clips_without_transcripts_share_a_placeholder(tmp_path):
    clips = edit(text=" ")([spoken(i) for i in range(4)])
    dataset = talker.extract(write(tmp_path / "clips", clips).dir, tmp_path / "out",
                             placeholder="speech", progress=False)
    encoder = Encoder.from_codecs(dataset.recipes, {n: dataset.codec(n) for n in dataset.codecs})
    said = [encoder.tokenizer.decode(e["tokens"]) for e in dataset.source("train")]
    assert said == ["Sentence 0.", "speech",
                    "Sentence 2."] and dataset.recipes["tokens"]["placeholder"] == "speech"


def test_a_share_of_the_training_clips_is_speech_alone(clips, features, tmp_path):
    dataset = talker.extract(clips.dir, tmp_path / "out", speech_only=0.5, progress=False)
    silent = {split: [len(e["motion"]) == 0 for e in dataset.source(split)]
              for split in dataset.splits}
    assert 0 < sum(silent["train"]) < len(silent["train"])
    assert not any(any(values) for split, values in silent.items() if split != "train")
    for got, whole in zip(dataset.source("train"), features.source("train"), strict=True):
        np.testing.assert_array_equal(got["audio"], whole["audio"])


def test_clips_end_on_whole_patches(clips, features, tmp_path):
    dataset = talker.extract(clips.dir, tmp_path / "out", multiple=4, progress=False)
    lengths = []
    for got, plain in zip(dataset.source("valid"), features.source("valid"), strict=True):
        before, after = len(plain["audio"]), len(got["audio"])
        assert after % 4 == 0 and 0 <= after - before < 4 and len(got["motion"]) == after
        # how a product of matrices is rounded depends on its number of rows, on some processors
        np.testing.assert_allclose(got["audio"][:before - 1], plain["audio"][:before - 1],
                                   atol=1e-5)
        np.testing.assert_array_equal(got["motion"][:before], plain["motion"])
        assert (got["motion"][before:] == plain["motion"][-1]).all()
        lengths.append(after - before)
    assert any(lengths)


def test_eigenfaces_fit(tmp_path):
    rng = np.random.default_rng(0)
    columns = {"face": Feature((None, 32), "float32", "eigenfaces", "", 30.0),
               "pose_z": Feature((None, 7), "float32", "pose", "", 30.0)}
    clips = [spoken(i, face=rng.normal(size=(36, 32)).astype(np.float32),
                    pose_z=rng.normal(size=(36, 7)).astype(np.float32))
             for i in range(4)]
    dataset = talker.extract(write(tmp_path / "clips", clips, columns,
                                   recipes={"face": {"kind": "eigenface"}}).dir,
                             tmp_path / "out", progress=False)
    motion_TM = dataset.source("train")[0]["motion"]
    assert motion_TM.shape == (30, 40) and not motion_TM[:, 39].any() and motion_TM[:, 38].any()
    decoded = decode.Decoder.from_dataset(dataset).face({"motion": motion_TM})
    # the instants that both clocks share
    np.testing.assert_allclose(decoded[::6], clips[0]["face"][::6], atol=1e-4)


def test_an_impulse_and_a_blink_at_one_instant_share_a_frame(tmp_path):
    clips = [spoken(i, face=np.zeros((36, 5), np.float32), pose_z=np.zeros((36, 7), np.float32))
             for i in range(4)]
    clips[0]["audio"][:] = 0
    clips[0]["audio"][12 * 960 + 480] = 30000  # the middle of frame 12, at 0.48 .. 0.52 s
    clips[0]["face"][15] = 1.0  # at 0.5 s
    columns = {"face": Feature((None, 5), "float32", "face", "", 30.0),
               "pose_z": Feature((None, 7), "float32", "pose", "", 30.0)}
    dataset = talker.extract(write(tmp_path / "clips", clips, columns).dir, tmp_path / "out",
                             progress=False)
    example = dataset.source("train")[0]
    quiet = np.median(example["audio"], axis=0)
    assert np.abs(example["audio"] - quiet).sum(-1).argmax() == 12
    assert example["motion"][:, 0].argmax() in (12, 13)  # 0.48 s and 0.52 s are as near to 0.5 s


def edit(**change):
    return lambda clips: [dict(c) | (change if i == 1 else {}) for i, c in enumerate(clips)]


@pytest.mark.parametrize("features, change, codecs, arguments, message", [
    ({}, {"text": "  "}, {}, {}, "cannot extract clip 'clip1'.*empty text"),
    ({}, {"audio": np.zeros(100, np.int16)}, {}, {}, "cannot extract clip 'clip1'.*too short"),
    ({}, {}, {}, {"tokenizer": "/nowhere/tokenizer.json"}, "missing tokenizer.*nowhere.*hint"),
    ({}, {}, {}, {"tokenizer": "FILE", "tokens": "phonemes"}, "two tokenizers"),
    ({}, {"text": "привет"}, {}, {"tokens": "phonemes"}, "cannot extract clip 'clip1'.*letters"),
    ({}, {}, {}, {"voice": "loud"}, "unknown voice"),
    ({}, {}, {}, {"fit_split": "test"}, "unknown split"),
    (given(), {"motion": np.zeros((27, 40), np.float32)}, STATISTICS, {},
     "clip1.*differ in length.*30 and 27"),
    (given(), {"motion": np.full((30, 40), np.nan, np.float32)}, STATISTICS, {},
     "clip1.*not finite"),
    (given(), {}, {}, {}, "statistics missing.*motion.npz"),
    (given(), {}, {"motion": {"mean": np.zeros(40)}}, {}, "statistics missing.*without std"),
    (given(30.0), {}, STATISTICS, {}, "another rate.*25.0 Hz.*30.0 Hz"),
    (given(width=39), {}, STATISTICS, {}, r"wrong latent width.*\(time, 40\).*39"),
    ({"face": Feature((None, 4), "float32", "face", "", 30.0)}, {}, {}, {}, "clips lack 'pose_z'"),
])
def test_what_cannot_be_extracted_is_said_and_nothing_is_left(tmp_path, features, change, codecs,
                                                              arguments, message):
    extra = {"motion": np.zeros((30, features["motion"].shape[1]),
                                np.float32)} if "motion" in features else {}
    extra |= {"face": np.zeros((36, 4), np.float32)} if "face" in features else {}
    clips = edit(**change)([spoken(i, **extra) for i in range(4)])
    dataset = write(tmp_path / "clips", clips, features, codecs=codecs)
    with pytest.raises(UserError, match=message):
        extract.extract(dataset.dir, tmp_path / "out", features="talker", progress=False,
                        **arguments)
    assert [p.name for p in tmp_path.iterdir()] == ["clips"]


def test_unusable_clips_are_left_out_where_some_may_be(tmp_path):
    dataset = write(tmp_path / "clips",
                    edit(audio=np.zeros(100, np.int16))([spoken(i) for i in range(4)]), {})
    made = talker.extract(dataset.dir, tmp_path / "out", max_bad=0.3, progress=False)
    assert made.ids["train"] == ["clip0", "clip2"]
    assert "clip1" in (tmp_path / "out.quarantine.jsonl").read_text()


def test_a_face_too_wide_and_unknown_options(tmp_path):
    columns = {"face": Feature((None, 34), "float32", "face", "", 30.0),
               "pose_z": Feature((None, 7), "float32", "p", "", 30.0)}
    clips = [spoken(i, face=np.zeros((36, 34), np.float32), pose_z=np.zeros((36, 7), np.float32))
             for i in range(3)]
    dataset = write(tmp_path / "clips", clips, columns)
    with pytest.raises(UserError, match="do not fit.*34 and 7"):
        extract.extract(dataset.dir, tmp_path / "out", features="talker", progress=False)
    with pytest.raises(UserError, match="unknown features.*avflow or .*talker or tavid"):
        extract.extract(dataset.dir, tmp_path / "out", features="walker")
    with pytest.raises(UserError, match="wrong options of features 'talker'.*head_vae"):
        extract.extract(dataset.dir, tmp_path / "out", features="talker", head_vae="x")
    with pytest.raises(UserError, match="refusing to overwrite"):
        extract.extract(dataset.dir, dataset.dir, features="talker")


def test_alignment_is_exact_to_the_frame():
    audio, moved = np.zeros((10, 32)), np.zeros((12, 40))
    assert [len(x) for x in talker.align(audio, moved)] == [10, 10]
    with pytest.raises(UserError, match="differ in length"):
        talker.align(audio, np.zeros((13, 40)))
    ramp = np.arange(60, dtype=np.float32)[:, None] / 30
    raw = face_motion(ramp, np.tile(ramp, 7), 30.0)
    # frame j is the state at j / 25 s
    np.testing.assert_allclose(raw[:-1, 0], np.arange(49) / 25, atol=1e-6)
    assert raw.shape == (50, motion.DIM)
    assert len(resampled(np.zeros(22050), 22050)) == 24000 and latents.RATE == motion.RATE == 25.0
    assert mel.RECIPE_24K["hop"] * latents.STACK == latents.HOP
