"""Robustness of TAVID: worse portraits, seen and unseen speakers, prosody under another's voice, on
a corpus whose right answers are known."""

import json

import cv2
import jax
import numpy as np
import pytest

from avjax.encoders import portrait
from avjax.errors import UserError
from avjax.signal import mel
from avjax.systems.api import Spec, new_params
from avjax.systems.tavid import acoustic, speaker
from data_pipelines import decode
from data_pipelines.puppets import identities, render
from data_pipelines.store import dataset as store
from data_pipelines.store.schema import Feature
from eval.robustness import contours, job, speakers
from eval.robustness.subject import Subject

SIZE, WIDTH, RATE = 32, 6, mel.RECIPE["sample_rate"]
SECONDS, PEOPLE = 2.0, {"train": 4, "valid": 4, "test_speaker": 6}


def tone(semitones_T, rate: float) -> np.ndarray:
    """A tone of overtones whose pitch is (T,) semitones over 100 Hz at `rate`; NaN is silence."""
    at = np.arange(int(len(semitones_T) / rate * RATE)) / RATE
    semitones = np.interp(at * rate, np.arange(len(semitones_T)), np.nan_to_num(semitones_T))
    phase = 2 * np.pi * np.cumsum(100 * 2 ** (semitones / 12)) / RATE
    wave = sum(np.sin(k * phase) / k for k in range(1, 6)) / 4
    heard = np.isfinite(semitones_T)[np.minimum((at * rate).astype(int), len(semitones_T) - 1)]
    return (wave * heard).astype(np.float32)


class ToyDecoder(decode.Decoder):
    """Mel band 0 is the pitch itself, in semitones over 100 Hz."""

    sample_rate, sound_by = RATE, "a tone"

    def __init__(self, recipes, codecs):
        super().__init__(recipes, codecs)

    def speakers(self, streams):
        return [{"mel": streams["mel"][:, s]} for s in range(streams["mel"].shape[1])]

    def waveform(self, streams):
        return tone(streams["mel"][:, 0], mel.FRAME_RATE)


class Voiced(acoustic.System):
    """Speaks units (semitones) in a register, voice 0; or its voice alone: a wave of its own, as
    wide as voice 1 says."""

    def __init__(self, follows: bool):
        config = acoustic.config.tiny()
        config.voice_dim = WIDTH
        super().__init__(config)
        self.follows = follows
        self.example_spec = {"units": self.example_spec["units"], "voices": Spec(
            ("batch", 2, WIDTH), "float32", "voices", speaker_axis=1)}

    def generate(self, params, conditions, keys, task=""):
        units, voices = conditions["units"], conditions["voices"]
        frames = round(SECONDS * mel.FRAME_RATE)
        said = units[:, np.arange(frames) * int(SECONDS * 50) // frames].astype("float32")
        wave = np.sin(np.arange(frames) / 9).astype("float32")[:, None] * voices[:, None, :, 1]
        pitch = voices[:, None, :, 0] + (said if self.follows else wave)
        made = jax.numpy.zeros((*pitch.shape, 80)).at[..., 0].set(pitch)
        return {"mel": made, "mel_length": jax.numpy.full(len(units), frames)}


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """(dataset, decoder, tiny Speaker Mapper, its parameters): the voices of the data are those
    that it makes of the portraits, but in test_speaker, where each is its neighbour's."""
    config = speaker.config.tiny()
    config.size, config.face_dim, config.voice_dim = SIZE, 4, WIDTH
    config.widths, config.blocks, config.hidden = (4, 8), (1, 1), 16
    mapper = speaker.System(config)
    params = new_params(mapper)
    who = identities.identities(PEOPLE["train"], 0, PEOPLE["test_speaker"])
    drawn = {name: render.portrait(v, SIZE) for name, v in who.items()}
    encoder = portrait.fit(np.stack(list(drawn.values())), 4)
    faces = dict(zip(drawn, encoder(np.stack(list(drawn.values()))), strict=True))
    known, new = list(who)[:PEOPLE["train"]], list(who)[PEOPLE["train"]:]
    voices = np.asarray(mapper.apply(params, np.stack(list(drawn.values()))[:, None],
                                     np.stack(list(faces.values()))[:, None]))[:, 0]
    params["out"]["bias"] = params["out"]["bias"] - voices.mean(0)  # else all are alike
    voices = dict(zip(who, voices - voices.mean(0), strict=True))
    random = np.random.default_rng(0)

    def example(split, k, names):
        shown = [voices[new[(new.index(n) + 1) % len(new)] if n in new else n] for n in names]
        wide = [1.0 + (known + new).index(n) / 2 for n in names]
        units = np.stack([w * np.sin(np.arange(SECONDS * 50) / random.uniform(4, 9)) for w in wide],
                         1).round().astype(np.int32) + 12
        frames = round(SECONDS * mel.FRAME_RATE)
        sound = np.zeros((frames, 2, 80), np.float32)
        sound[..., 0] = units[np.arange(frames) * len(units) // frames]
        return {"id": f"{split}{k}", "speakers": json.dumps(names), "units": units, "mel": sound,
                "portraits": np.stack([drawn[n] for n in names]),
                "faces": np.stack([faces[n] for n in names]), "voices": np.stack(shown),
                "identity": np.stack([who[n] for n in names])}

    def pairs(split, names, times=1):
        return [example(split, k, [names[k % len(names)], names[(k + 1) % len(names)]])
                for k in range(0, times * len(names), 2)]

    words = Feature((), "str", "")
    features = {"id": words, "speakers": words,
                "units": Feature((None, 2), "int32", "", "", 50),
                "mel": Feature((None, 2, 80), "float32", "", "", mel.FRAME_RATE),
                "portraits": Feature((2, SIZE, SIZE, 3), "uint8", ""),
                "faces": Feature((2, 4), "float32", ""),
                "voices": Feature((2, WIDTH), "float32", ""),
                "identity": Feature((2, identities.WIDTH), "float32", "")}
    recipes = {"faces": encoder.recipe, "portraits": {"kind": "puppet", "size": SIZE, "zoom": 1.0}}
    data = store.write_dataset(
        tmp_path_factory.mktemp("robust") / "data", name="toy", description="", features=features,
        recipes=recipes, codecs={"faces": encoder.arrays()}, progress=False,
        splits={"train": pairs("train", known), "valid": pairs("valid", known, 2),
                "test_speaker": pairs("test_speaker", new)})
    return data, ToyDecoder(recipes, {"faces": encoder.arrays()}), mapper, params


@pytest.fixture(scope="module")
def subject(parts):
    data, decoder, mapper, params = parts
    return Subject(mapper, params, data, decoder)


def values(table) -> dict:
    return {row: {c: e and e["value"] for c, e in of.items()} for row, of in table.items()}


def test_worse_portraits_lose_the_voice_and_a_job_goes_on(subject, tmp_path, monkeypatch):
    (tmp_path / "side").mkdir()
    person = subject.people("valid")[1]
    cv2.imwrite(str(tmp_path / "side" / f"{person.name}.png"), person.portrait[:, :, ::-1])
    given = {"side": tmp_path / "side"}
    results = job.run("portraits", subject, tmp_path / "out", ("valid",), given=given,
                      progress=False)
    table = values(results["tables"]["valid"])
    assert table["as it is"]["R@1"] == 1 and table["as it is"]["place"] == 1
    assert table["as it is"]["like clean"] == pytest.approx(1)
    for kind in ("blur", "rotation", "yaw"):
        levels = [row["like clean"] for name, row in table.items() if name.startswith(kind)]
        assert len(levels) >= 4 and levels[0] > levels[-1] < 0.99, kind
    assert table["blur 8"]["cosine"] < table["as it is"]["cosine"]
    # one speaker's picture, found by its name, beside all candidates
    entry = results["tables"]["valid"]["side"]["cosine"]
    assert entry["n"] == 1 and entry["value"] == pytest.approx(
        results["tables"]["valid"]["as it is, those of side"]["cosine"]["value"], abs=1e-3)
    assert "rotation 30" in (tmp_path / "out" / "robustness.portraits.txt").read_text()
    assert (tmp_path / "out" / "robustness.portraits.png").read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr(Subject, "_voices", lambda *_: pytest.fail("all rows are there"))
    again = job.run("portraits", subject, tmp_path / "out", ("valid",), given=given, progress=False)
    assert again["tables"] == results["tables"]


@pytest.mark.parametrize(("files", "message"), [
    ((), "no portrait of a speaker.*expected: pictures called after speakers.*found: no picture"),
    (("nobody.png",), "no portrait of a speaker.*found: nobody.png"),
    (("ada.png", "ada.jpg"), "two portraits of one speaker"),
    (("ada.gif",), "unreadable portrait.*ada.gif")])
def test_a_folder_that_is_of_no_use_is_told(subject, tmp_path, files, message):
    for name in files:
        (tmp_path / name).write_bytes(b"no picture")
    with pytest.raises(UserError, match=message):
        job.run("portraits", subject, tmp_path / "out", ("valid",), given={"x": tmp_path})


def test_faces_of_a_recogniser_need_folders(parts, tmp_path):
    data, _, mapper, params = parts
    decoder = ToyDecoder({}, {})
    subject = Subject(mapper, params, data, decoder)
    subject.__dict__["_embed"] = portrait.given(4)
    with pytest.raises(UserError, match="no portrait can be altered.*--portraits=FOLDER"):
        job.run("portraits", subject, tmp_path, ("valid",))
    cv2.imwrite(str(tmp_path / "ada.png"), np.zeros((SIZE, SIZE, 3), np.uint8))
    with pytest.raises(UserError, match="no face embedding.*ada.face.npy"):
        job.run("portraits", subject, tmp_path / "out", ("valid",), given={"x": tmp_path})
    with pytest.raises(UserError, match="no part that is looked at here.*tavid.speaker"):
        job.run("prosody", subject, tmp_path / "out", ("valid",))


def test_seen_and_unseen_speakers_among_as_many_candidates(subject, tmp_path):
    results = job.run("speakers", subject, tmp_path, ("valid", "test_speaker"), progress=False)
    (title, table), = results["tables"].items()
    table = values(table)
    assert title.startswith("4 candidates") and list(table) == ["seen", "unseen"]
    assert table["seen"]["R@1"] == 1 and table["unseen"]["R@1"] < 0.1, "neighbours' voices"
    assert 1 < table["unseen"]["place"] <= 4
    one = results["speakers"]["unseen"]["zoe"]
    assert one["of"] == 6 and one["place"] > 1 and one["nearest"] == "zoe6"  # who got zoe's voice
    assert table["seen"]["recorded same"] == pytest.approx(1)  # each speaks in two dialogues
    assert table["unseen"]["recorded same"] is None and table["seen"]["same"] is None  # no films


def test_places_and_equal_errors_by_hand():
    similar = np.array([[1.0, 2, 0], [0, 5, 1], [9, 9, 9]])
    assert speakers.places(similar, 3).tolist() == [[2, 1, 3]]
    drawn = speakers.places(similar, 2)
    assert drawn[:, 1].tolist() == [1] * speakers.DRAWS and drawn[:, 2].tolist() == [
        2] * speakers.DRAWS
    assert drawn[:, 0].mean() == pytest.approx(1.5, abs=0.1)
    assert speakers.equal_error(np.array([3.0, 4]), np.array([1.0, 2])) == 0
    assert speakers.equal_error(np.array([1.0, 2]), np.array([3.0, 4])) == 1
    assert speakers.equal_error(np.array([1.0, 3]), np.array([2.0, 0])) == 0.5
    own, same, other = speakers.alike([np.eye(2), np.eye(2)[:1]])
    assert own[0] == 0 and np.isnan(own[1]) and same.tolist() == [0] and other.tolist() == [1, 0]


def test_contours_of_a_tone():
    wave = 7 + 3 * np.sin(np.arange(200) / 10)
    wave[80:120] = np.nan
    found = contours.of(tone(wave, 100), RATE)
    assert np.nanmax(np.abs(found.pitch_T[20:70] - wave[20:70])) < 0.5
    assert np.isnan(found.pitch_T[90:110]).all() and np.isnan(found.energy_T[90:110]).all()
    assert found.register == pytest.approx(np.nanmedian(wave), abs=0.4)
    low, high = np.nanquantile(wave, (0.16, 0.84))
    assert found.spread == pytest.approx((high - low) / 2, abs=0.4)
    assert contours.correlation(found.pitch_T, wave) > 0.98
    silent = contours.of(np.zeros(RATE, np.float32), RATE)
    assert np.isnan(silent.spread) and np.isnan(contours.correlation(silent.pitch_T, wave))


@pytest.mark.parametrize("follows", [True, False])
def test_prosody_is_of_the_units_or_of_the_voice(parts, tmp_path, monkeypatch, follows):
    data, decoder, *_ = parts
    one = Subject(Voiced(follows), {"w": np.zeros(1)}, data, decoder)
    people = one.people("test_speaker", seen=False)
    for k, person in enumerate(people):  # register, and how wide it waves by itself
        person.voice[:2] = k, 0.3 + k
    monkeypatch.setattr(Subject, "people", lambda *_, **__: people)
    results = job.run("prosody", one, tmp_path, ("test_speaker",), progress=False)
    table = values(results["tables"]["test_speaker"])
    chosen = results["voices"]["test_speaker"]
    assert chosen["flat voice"]["speaker"] == "zoe" != chosen["lively voice"]["speaker"]
    assert table["codec"]["pitch"] > 0.99 and table["recorded"]["follows units"] == pytest.approx(1)
    flat, lively = table["flat voice"], table["lively voice"]
    assert (flat["pitch"] > 0.95) is follows
    if follows:
        assert flat["spread"] == pytest.approx(table["recorded"]["spread"], rel=0.1)
        assert flat["lively units"] > flat["flat units"]
    else:
        assert flat["spread"] < 0.5 < 2 < lively["spread"]
    above = [p.name for p in people].index(chosen["lively voice"]["speaker"])
    if follows:
        assert lively["from units"] == pytest.approx(above, abs=1) and above
