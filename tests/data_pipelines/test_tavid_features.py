"""Dialogues -> TAVID's features: all columns on one clock, nothing of another party, what is
unusable left out and told of."""

import json
import pathlib
import subprocess
import sys
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
from data_pipelines import declared, decode, extract
from data_pipelines.features.common import clips as common
from data_pipelines.features.common import painter, portraits
from data_pipelines.features.tavid import conversations, frozen_encoders, script
from data_pipelines.features.tavid import extract as tavid
from data_pipelines.features.tavid.tokenizer import DialogueTokenizer, marks
from data_pipelines.loading import loader
from data_pipelines.puppets import build, face_code, render
from data_pipelines.store import dataset as store
from data_pipelines.store.schema import Feature

SIZE, UNITS = 32, 12
OPTIONS = dict(num_units=UNITS, size=SIZE, progress=False)


class Averages:
    """Stands for a VAE: means of 8 x 8 pixels, and a fourth channel that is none."""

    recipe = {"kind": "averages"}

    def arrays(self):
        return {"none": np.zeros(1)}

    def latent_shape(self, height, width):
        return height // 8, width // 8, 4

    def encode(self, pictures_NHWC):
        means = pictures_NHWC.reshape(-1, SIZE // 8, 8, SIZE // 8, 8,
                                      3).mean((2, 4)).astype(np.float32) / 255
        return np.pad(means, [(0, 0)] * 3 + [(0, 1)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tavid")


@pytest.fixture(scope="module")
def clips(folder):
    build.prepare(folder / "clips", sentences=3, valid=3, test=3, speakers=3, held_out=3,
                  dialogues=3, turns=3, seed=1,
                  progress=False)
    return store.open_dataset(folder / "clips_dialogues")


@pytest.fixture(scope="module")
def features(clips, folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frozen_encoders, "load_pictures", lambda path: Averages())
        return extract.extract(clips.dir, folder / "features", features="tavid", vae="a VAE",
                               **OPTIONS)


def rows(dataset, split):
    return {row["id"]: row for row in dataset.source(split)}


def rewritten(out, clips, change, columns=None):
    """The dialogues again, each record changed by `change(i, record)`; i is -1 outside of train."""
    splits = {s: [change(i if s == "train" else -1, dict(r)) for i, r in enumerate(clips.source(s))]
              for s in clips.splits}
    return store.write_dataset(out, name="clips", description="changed", features=clips.features
                               | (columns or {}), splits=splits, recipes=clips.recipes,
                               codecs={c: clips.codec(c) for c in clips.codecs}, progress=False)


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


def test_bad_channels_are_quarantined_and_nothing_else_is_lost(clips, features, folder, capsys):
    def spoil(i, r):
        if i == 0:
            r["audio"], r["partner_audio"] = r["partner_audio"], r["audio"]
        elif i == 2:
            r["audio"] = np.zeros_like(r["audio"])
        elif i == 4:
            r["partner_audio"] = r["partner_audio"][:-5000]
        return r

    bad = rewritten(folder / "bad", clips, spoil)
    with pytest.raises(UserError, match="nothing usable.*train.*1 x channels swapped, 1 x silent "
                                        "channel, 1 x lengths differ"):
        extract.extract(bad.dir, folder / "none", features="tavid", **OPTIONS)
    assert not (folder / "none").exists() and not (folder / ".none.partial").exists()

    def mixed(i, r):
        if i == 2:
            r["audio"] = r["partner_audio"] = r["audio"] // 2 + r["partner_audio"] // 2
        return spoil(i, r) if i == 0 else r

    some = rewritten(folder / "some", clips, mixed)
    with pytest.raises(UserError, match="too many unusable examples.*at most 20%.*channels "
                                        "swapped.*max_bad"):
        extract.extract(some.dir, folder / "strict", features="tavid", max_bad=0.2, video=0.0,
                        **OPTIONS)
    with pytest.MonkeyPatch.context() as patch:  # what was made is not made again
        patch.setattr(tavid, "_examples", lambda *args: 1 / 0)
        kept = extract.extract(some.dir, folder / "strict", features="tavid", max_bad=0.7,
                               video=0.0, **OPTIONS)
    assert list(kept.source("train").ids) == ["dialogue-train-00002/0"]
    told = [json.loads(line)
            for line in (folder / "strict.quarantine.jsonl").read_text().splitlines()]
    assert [(t["split"], t["id"], t["reason"]) for t in told[:2]] == [
        ("train", "dialogue-train-00000/0", "channels swapped"),
        ("train", "dialogue-train-00001/0", "one channel twice")]
    assert "ben" in told[0]["detail"] or "ada" in told[0]["detail"] or "cleo" in told[0]["detail"]
    assert "left out" in capsys.readouterr().err


def test_whatever_a_dialogue_does_is_its_own_matter(clips, monkeypatch):
    source = frozen_encoders.Source(clips, ("", "partner_"), None)
    clip = source.clip("train", 0)
    with pytest.raises(store.Unusable, match="cannot be extracted.*JSONDecodeError"):
        source.record(clip | {"events": "[["})
    monkeypatch.setattr(tavid, "_of_recording", lambda record,
                        *a: {} if record.clip["id"] != clip["id"] else 1 / 0)
    monkeypatch.setattr(tavid, "_of_piece", lambda *a: {})

    class Units:
        num_units = 1

        def __call__(self, channels):
            return [np.zeros(len(a) // 320, np.int32) for a in channels]

    encoders = types.SimpleNamespace(units=Units())
    first, second = tavid._examples(source, "train", source.indices("train")[:2], encoders, 0.0,
                                    60.0)
    assert isinstance(first,
                      store.Unusable) and first.id == clip["id"] and "ZeroDivisionError" in str(
                          first)
    assert second == {"id": clips.source("train").ids[source.indices("train")[1]]}
    monkeypatch.setattr(tavid, "_of_recording", lambda *a: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(MemoryError):
        tavid._examples(source, "train", source.indices("train")[:1], encoders, 0.0, 60.0)


def test_portraits_without_one_face_are_quarantined(clips, folder, monkeypatch):
    def record(i, r):
        shade = np.uint8(40 + 30 * i)
        pictures = np.full((len(r["face"]), 48, 48, 3), shade)
        pictures[:, :, :, 0] = np.arange(len(pictures))[:, None, None] % 256  # a picture's number
        face = np.full((200, 200, 3), 250 if i == 2 else 90 + 9 * i, np.uint8)
        return r | {"pictures": pictures, "partner_pictures": pictures, "portrait": face,
                    "partner_portrait": face}

    columns = {f"{p}pictures": Feature((None, 48, 48, 3), "uint8", "video", "", 30.0)
               for p in ("", "partner_")}
    columns |= {f"{p}portrait": Feature((200, 200, 3), "uint8", "picture")
                for p in ("", "partner_")}
    filmed = rewritten(folder / "filmed", clips, record, columns)
    with pytest.raises(UserError, match="no portrait is usable"):  # nobody is seen in grey
        extract.extract(filmed.dir, folder / "grey", features="tavid", **OPTIONS)

    def find(picture, kind):
        assert kind == "recorded"
        return [(50.0, 50.0, 100.0, 100.0)] * (2 if picture.mean() > 200 else 1)

    monkeypatch.setattr(portraits, "find", find)
    made = extract.extract(filmed.dir, folder / "seen", features="tavid", **OPTIONS)
    told = [json.loads(line)
            for line in (folder / "seen.quarantine.jsonl").read_text().splitlines()]
    assert [(t["id"], t["reason"]) for t in told if t["split"] == "train"] == [
        ("dialogue-train-00001/0", "a portrait with several faces")]
    assert made.splits["train"] == 2 and made.recipes["portraits"] == {"kind": "recorded",
                                                                       "size": SIZE, "rate": 25}
    look = painter.Painter(filmed, SIZE)
    numbers = look.pictures(next(iter(filmed.source("train"))), "", np.arange(20) / 25)[:, 0, 0, 0]
    assert (np.abs(numbers - np.arange(20) * 30 / 25) <= 0.5).all()  # the nearest in time


def test_pictures_show_what_motion_says(clips, folder):
    made = extract.extract(clips.dir, folder / "pictures", features="pictures", size=SIZE, rate=2.0,
                           progress=False)
    assert made.splits["train"] == 6 and made.features["pictures"].rate == 2.0
    row, clip = made.source("valid")[1], clips.source("valid")[1]
    for k in (0, 3, 9):
        np.testing.assert_allclose(row["motion"][k, :16],
                                   resample.interpolate(clip["face"], np.array([k * 15.0]))[0],
                                   atol=1e-5)
    articulators = face_code.decode(row["motion"][:, :16], made.codec("face"))
    stats = made.codec("pose")
    drawn = render.render(articulators, row["motion"][:, 16:] * stats["std"] + stats["mean"],
                          row["identity"], SIZE, 1.2)
    # codes are z-scored and back: a rounding on an edge
    assert np.abs(drawn.astype(int) - row["pictures"]).max() <= 30
    assert not decode.Decoder.from_dataset(made).has_audio(row)
    with pytest.raises(UserError, match="no such rate"):
        extract.extract(clips.dir, folder / "p2", features="pictures", rate=0.0)


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


def test_the_command_line_knows_every_family(clips, folder):
    assert extract.FEATURES == ("avflow", "decoded", "pictures", "talker", "tavid", "units")
    options = {name: declared.options(extract.extractor(name)) for name in extract.FEATURES}
    assert (options["tavid"]["num_units"].kind, options["tavid"]["num_units"].default) == (int, 100)
    assert options["avflow"]["resample"].name == "mode" and "progress" not in options["tavid"]
    assert all(one.option.help for family in options.values() for one in family.values())
    command = [sys.executable, "-m", "launch.extract", f"--clips={clips.dir}",
               f"--out={folder / 'cli'}", "--features=pictures"]
    root = pathlib.Path(__file__).parents[2]
    done = subprocess.run([*command, "--num_units=3"], cwd=root, capture_output=True, text=True,
                          check=False)
    assert done.returncode == 2 and done.stderr.count(
        "\n") == 1 and "--num_units means nothing here" in done.stderr


def test_extraction_of_every_family_goes_on_after_kills(clips, folder):
    """Real SIGKILLs; see kill_points.py."""
    families = {"avflow": (clips.dir, {}), "pictures": (clips.dir, {"size": SIZE, "rate": 1.0}),
                "talker": (folder / "clips", {}),
                "tavid": (clips.dir, {"num_units": UNITS, "size": SIZE})}
    (folder / "killed").mkdir()
    program = pathlib.Path(__file__).with_name("kill_points.py")
    what = json.dumps({name: (str(path), options) for name, (path, options) in families.items()})
    done = subprocess.run([sys.executable, program, folder / "killed", what], capture_output=True,
                          text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("moments") == len(families)


def test_a_dialogue_that_cannot_be_cut_is_told_of():
    turns = tuple(script.Turn(k % 2, "words", k > 0, (), k * 3.0, k * 3.0 + 3.5) for k in range(6))
    spoken = script.Script(turns, ("a", "b"))
    record = conversations.Conversation({}, ("a", "b"), (), spoken, 20 * 25)
    found = list(conversations.pieces(record, 10.0))
    assert len(found) == 1 and isinstance(found[0], store.Unusable) and "no" in str(found[0])
    last = turns[5]
    gap = script.Turn(1, "words", False, (), last.start + 1, last.end + 1)
    record = conversations.Conversation({}, ("a", "b"), (),
                                     script.Script((*turns[:2], gap), ("a", "b")), 22 * 25)
    first, second = conversations.pieces(record, 12.0)
    assert (first.start, second.end) == (0,
                                         550) and first.end == second.start == round((6.5 + 16) / 2
                                                                                     * 25)
    assert second.script.turns[0].start == pytest.approx(16 - second.start / 25)
