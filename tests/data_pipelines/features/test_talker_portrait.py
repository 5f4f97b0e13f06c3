"""LIA-X where Talker meets it: motion read of clips' pictures and of films, and drawn on a
portrait. The network itself is tests/codecs/test_lia_x.py's; here a toy stands in its place."""

import dataclasses
import types

import av
import cv2
import numpy as np
import pytest
import soundfile

from avjax.codecs import eigenface
from avjax.codecs.lia_x import codec
from avjax.errors import UserError
from avjax.systems import api
from avjax.systems.talker import config as talker_config
from data_pipelines import decode, prompting
from data_pipelines.features.common import portraits
from data_pipelines.features.talker import extract as talker
from data_pipelines.features.talker import frontend
from data_pipelines.live import parts, speakers
from data_pipelines.media import faces, write_media
from data_pipelines.puppets import render
from data_pipelines.store.schema import Feature
from launch.jobs import video
from tests.data_pipelines.test_talker_features import spoken, write

MEAN, STD = np.linspace(-1, 1, 40).astype(np.float32), np.full(40, 2, np.float32)


class Toy:
    """Motion: the mean of a picture, 40 times. Drawn: the portrait, darker by the motion."""

    weights = "0123456789abcdef"
    recipe = {"kind": "lia-x", "weights": weights}

    def motion(self, pictures):
        shapes = set()
        made = [np.full(40, self._mean(picture, shapes), np.float32) for picture in pictures]
        assert shapes <= {(512, 512, 3)}
        return np.asarray(made).reshape(-1, 40)

    def _mean(self, picture, shapes):
        shapes.add(picture.shape)
        return picture.mean()

    def portrait(self, picture):
        return codec.Portrait(self.motion([picture])[0], None, [picture])

    def draw(self, on, motion_TM):
        for motion_M in motion_TM:
            yield (on.features[0] - np.round(motion_M[0])).astype(np.uint8)


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    monkeypatch.setattr(codec, "loaded", lambda path, mesh=None: Toy())


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """The folder of weights and statistics."""
    folder = tmp_path_factory.mktemp("release")
    np.save(folder / "motion_mean.npy", MEAN)
    np.save(folder / "motion_std.npy", STD)
    return folder


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """30 pictures each, of one grey that grows."""
    columns = {"pictures": Feature((None, 8, 8, 3), "uint8", "seen", "", 25.0)}
    grey = [np.full((1, 8, 8, 3), 10 * i, np.uint8) + np.arange(30, dtype=np.uint8)[:, None, None,
                                                                                    None]
            for i in range(3)]
    return write(tmp_path_factory.mktemp("clips") / "clips",
                 [spoken(i, pictures=x) for i, x in enumerate(grey)], columns)


@pytest.fixture(scope="module")
def dataset(clips, release, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codec, "loaded", lambda path, mesh=None: Toy())
        return talker.extract(clips.dir, tmp_path_factory.mktemp("features") / "out",
                              face_codec=str(release / "lia-x.pt"), progress=False)


def test_motion_is_read_of_pictures(dataset, clips, release, tmp_path):
    examples = list(dataset.source("train"))
    assert len(examples) == 2
    for i, example in enumerate(examples):
        grey = 10 * i + np.arange(30)[:, None]
        np.testing.assert_allclose(example["motion"], (grey - MEAN) / STD, atol=1e-4)
    recipe = dataset.recipes["motion"]
    assert recipe["kind"] == "lia-x" and recipe["weights"] == Toy.weights
    assert recipe["pictures"]["kind"] == "recorded" and recipe["rate"] == 25
    np.testing.assert_allclose(dataset.codec("speakers")["first_motion"][0], (5 - MEAN) / STD,
                               atol=1e-4)
    # other statistics scale otherwise, and are told apart
    other = tmp_path / "statistics"
    other.mkdir()
    np.save(other / "motion_mean.npy", MEAN)
    np.save(other / "motion_std.npy", STD / 2)
    again = talker.extract(clips.dir, tmp_path / "out", face_codec=str(release),
                           statistics=str(other), progress=False)
    np.testing.assert_allclose(again.source("train")[0]["motion"], 2 * examples[0]["motion"],
                               atol=1e-3)
    assert again.recipes["motion"]["arrays"] != recipe["arrays"]


def test_what_extraction_refuses(clips, release, tmp_path):
    with pytest.raises(UserError, match="motion statistics missing.*motion_mean.npy"):
        talker.extract(clips.dir, tmp_path / "a", face_codec=str(tmp_path / "lia-x.pt"))
    with pytest.raises(UserError, match="statistics of which motion.*--face_codec"):
        talker.extract(clips.dir, tmp_path / "b", statistics=str(release))
    heard = write(tmp_path / "heard", [spoken(i) for i in range(2)])
    with pytest.raises(UserError, match="nothing here can be seen"):
        talker.extract(heard.dir, tmp_path / "c", face_codec=str(release / "lia-x.pt"))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    drawn = render.portrait(np.zeros(8, np.float32), 256)
    for name, picture in (("face", drawn), ("wide", drawn[:200]), ("none", drawn[:9, :9] * 0)):
        cv2.imwrite(str(folder / f"{name}.png"), picture)
    noise = np.random.default_rng(0).normal(size=8000) * 0.1
    soundfile.write(folder / "said.wav", noise, 16000)
    return folder


@pytest.fixture
def ask(dataset, files):
    c = talker_config.default()
    c.update(dict(vocab=dataset.recipes["tokens"]["vocab"], num_layers=1, row_tokens=200,
                  row_patches=40))
    system, builder = api.build(c), prompting.builder("talker")

    def call(decoder, **request):
        request = {"audio": str(files / "said.wav"), "text": "Hello."} | request
        return builder.build(builder.request("talker", **request), system, decoder)
    return call


def test_a_generated_motion_is_drawn_on_the_portrait(ask, dataset, files, tmp_path):
    decoder = decode.Decoder.from_dataset(dataset)
    made = ask(decoder, portrait=str(files / "face.png"), face="unchecked", face_codec="lia-x.pt")
    picture = made.given["portrait"]
    assert picture.shape == (1, 512, 512, 3) and decoder.fps == 25
    np.testing.assert_allclose(made.conditions["first_motion"], (picture.mean() - MEAN) / STD,
                               rtol=1e-4)
    assert "portrait" not in ask(decoder).given
    raw = np.zeros((4, 40), np.float32)
    raw[:, 0] = [0, 1, 2, 3]
    streams = {"audio": dataset.source("train")[0]["audio"][:4], "motion": (raw - MEAN) / STD}
    count, pictures = decoder.pictures({**streams, **made.given})
    assert count == 4
    for k, drawn in enumerate(pictures):
        np.testing.assert_array_equal(drawn, (picture[0] - float(k)).astype(np.uint8))
    paths = video.write(tmp_path / "out", {**streams, **made.given}, decoder, made)
    with av.open(str(paths["mp4"])) as film:
        assert film.streams.video[0].width == 512 and film.streams.video[0].average_rate == 25
        assert sum(1 for _ in film.decode(video=0)) == 4
    assert "mp4" not in video.write(tmp_path / "plain", streams, decoder, ask(decoder))
    assert "pictures" in speakers.Speakers(decoder, made, parts.Settings(1, 1), True).look_ahead
    live = parts.Pictures(decoder, given=made.given)
    fed = [list(live.feed({"motion": x})) for x in np.split(streams["motion"], 2)]
    offline = decoder.pictures({**streams, **made.given})[1]
    np.testing.assert_array_equal(np.stack(fed[0] + fed[1]), np.stack(list(offline)))
    assert [len(x) for x in fed] == [2, 2] and not list(live.finish())


@pytest.mark.parametrize("request_, message", [
    ({"portrait": "wide.png"}, "the portrait is not square.*--portrait=.*found: 256 x 200"),
    ({"portrait": "none.png"}, "a portrait without a face"),
    ({"portrait": "no.png"}, "no such portrait"),
    ({"portrait": "face.png", "face": "maybe"}, "unknown way.*unchecked"),
    ({"portrait": "face.png", "task": "tts"}, "tts moves no face"),
    ({"face_codec": "lia-x.pt"}, "--face_codec without --portrait"),
])
def test_what_a_portrait_is_refused_for(ask, dataset, files, request_, message):
    request_ = {"face_codec": "lia-x.pt"} | request_
    if "portrait" in request_:
        request_["portrait"] = str(files / request_["portrait"])
    with pytest.raises(UserError, match=message):
        ask(decode.Decoder.from_dataset(dataset), **request_)


def test_weights_to_draw_with(dataset, tmp_path, monkeypatch):
    decoder = decode.Decoder.from_dataset(dataset)
    with pytest.raises(UserError, match="nothing to draw with.*--face_codec.*WORKDIR/lia_x"):
        decoder.family.draw_with("")
    decoder.workdir = tmp_path
    (tmp_path / "lia_x").mkdir()
    assert decoder.family.draw_with("").weights == Toy.weights
    monkeypatch.setattr(codec, "loaded", lambda path: types.SimpleNamespace(weights="other"))
    with pytest.raises(UserError, match="the weights of another LIA-X.*0123456789abcdef.*other"):
        decoder.family.draw_with("lia-x.pt")
    stand_in = decode.Decoder(dataset.recipes | {"motion": {"kind": "face+pose"}}, decoder.codecs)
    with pytest.raises(UserError, match="this motion is not LIA-X's.*face.pose"):
        stand_in.family.draw_with("lia-x.pt")


FRAMES, FILM_RATE = 40, 24000  # of the film, and its sound


def film(path, *, width=64, grey=40, step=3, frames=FRAMES, seconds=FRAMES / 25):
    """Greys that grow by `step`, with noise."""
    pictures = [np.full((64, width, 3), grey + step * k, np.uint8) for k in range(frames)]
    noise = np.random.default_rng(0).normal(size=round(seconds * FILM_RATE)) * 0.1
    write_media.write_mp4(path, pictures, 25, noise if seconds else None, FILM_RATE)
    return path


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    film(folder / "film.mp4")
    film(folder / "mute.mp4", seconds=0)
    film(folder / "wide.mp4", width=96)
    film(folder / "dark.mp4", grey=0, step=0, frames=30, seconds=1.2)
    film(folder / "apart.mp4", seconds=FRAMES / 25 + 0.16)
    film(folder / "long.mp4", step=0, frames=168, seconds=0)
    return folder


@pytest.fixture
def seen(monkeypatch):
    """A face is where it is bright, twice where it is very bright."""
    def find(picture, kind):
        assert kind == "recorded"
        box = (0.4 * picture.shape[1], 10.0, 20.0, 20.0)
        return [box] * int(picture.mean() > 30) + [box] * int(picture.mean() > 200)

    monkeypatch.setattr(portraits, "find", find)


def expected(frames):
    return (40 + 3 * np.arange(frames)[:, None] - MEAN) / STD


def test_a_film_is_dubbed(ask, dataset, films, files, seen, tmp_path):
    decoder = decode.Decoder.from_dataset(dataset)
    given = {"video": str(films / "film.mp4"), "face_codec": "lia-x.pt"}
    made = ask(decoder, audio="", **given)
    assert made.task == "v2a" and int(made.conditions["motion_length"]) == FRAMES
    np.testing.assert_allclose(made.conditions["motion"], expected(FRAMES), atol=1)  # H.264's loss
    assert int(made.conditions["audio_length"]) == 0 and "the film's own" in made.remarks[-1]
    rate, pictures = made.shown()
    assert rate == pytest.approx(25) and [x.shape for x in pictures] == [(64, 64, 3)] * FRAMES
    streams = {"audio": np.zeros((FRAMES, 32), np.float32), "motion": made.conditions["motion"]}
    paths = video.write(tmp_path / "out", {**streams, **made.given}, decoder, made)
    with av.open(str(paths["mp4"])) as dubbed:
        greys = [frame.to_ndarray(format="rgb24").mean() for frame in dubbed.decode(video=0)]
        assert dubbed.streams.video[0].width == 64 and dubbed.streams.audio
    np.testing.assert_allclose(greys, 40 + 3 * np.arange(FRAMES), atol=3)
    own = np.stack(list(made.shown()[1]))
    slow = dataclasses.replace(made, shown=lambda: (12.5, iter(own[:18:2])))  # ends early
    for prompt, fps, expected_THWC in ((made, 25, own),
                                       (slow, 12.5, own[[*range(0, 18, 2)] + [16] * 11])):
        live = speakers.Speakers(decoder, prompt, parts.Settings(16, 1, 1), True)
        packets = [live.feed({n: x[k:k + 8] for n, x in streams.items()})
                   for k in range(0, FRAMES, 8)] + [live.finish()]
        shown = [picture for packet in packets for picture in packet.pictures]
        np.testing.assert_array_equal(shown, expected_THWC)
        assert live.fps == pytest.approx(fps) and live.look_ahead.keys() == {"sound"}
        heard = np.cumsum([len(packet.sound_N) for packet in packets]) / FILM_RATE
        seen_by_then = np.cumsum([len(packet.pictures) for packet in packets])
        np.testing.assert_array_equal(seen_by_then[:2], np.round(heard * fps)[:2])
    other = ask(decoder, audio=str(files / "said.wav"), task="v2a", **given)
    assert not np.allclose(other.conditions["speaker"], made.conditions["speaker"])
    drawn = ask(decoder, audio="", portrait=str(files / "face.png"), face="unchecked", **given)
    assert drawn.shown is None and drawn.given["portrait"].mean() > 100
    np.testing.assert_array_equal(drawn.conditions["motion"], made.conditions["motion"])


def test_a_film_is_continued(ask, dataset, films, seen, monkeypatch):
    decoder = decode.Decoder.from_dataset(dataset)
    looked = []
    monkeypatch.setattr(Toy, "_mean", lambda self, x, shapes: looked.append(x.shape) or x.mean())
    made = ask(decoder, audio="", video=str(films / "film.mp4"), face_codec="lia-x.pt",
               prefix_seconds=0.7)
    lengths = {n: int(made.conditions[f"{n}_length"]) for n in ("audio", "motion")}
    assert made.task == "t2av" and lengths == {"audio": 16, "motion": 16}
    assert looked == [(512, 512, 3)] * 16, "what is not continued is not read"
    np.testing.assert_allclose(made.conditions["motion"], expected(16), atol=1)
    encoder = frontend.Encoder.from_codecs(decoder.recipes, decoder.codecs)
    with av.open(str(films / "film.mp4")) as opened:
        rate = opened.streams.audio[0].rate
        sound = np.concatenate([x.to_ndarray()[0] for x in opened.decode(audio=0)])
    whole = encoder.audio(sound[:rate * FRAMES // 25], rate)
    assert np.corrcoef(made.conditions["audio"].ravel(), whole[:16].ravel())[0, 1] > 0.99
    assert made.shown is None and abs(made.given["portrait"].mean() - 40) < 2
    np.testing.assert_allclose(made.conditions["first_motion"], expected(1)[0], atol=1)
    # who is filmed, without anything to continue
    given = {"audio": "", "face_codec": "lia-x.pt", "video": str(films / "film.mp4")}
    begun = ask(decoder, task="t2av", **given)
    assert int(begun.conditions["motion_length"]) == 0 and "portrait" in begun.given
    np.testing.assert_allclose(begun.conditions["first_motion"], expected(1)[0], atol=1)
    # no square: the face's surroundings
    assert ask(decoder, **given | {"video": str(films / "wide.mp4")}).task == "v2a"
    driven = ask(decoder, task="a2v", **given)
    assert int(driven.conditions["audio_length"]) in (FRAMES, FRAMES + 1)  # AAC's last frame


@pytest.mark.parametrize("request_, message", [
    ({"video": "none.mp4"}, "no such film; where: --video=.*none.mp4"),
    ({"video": "dark.mp4"}, "a film without a face; where: --video=.*one in 0 of 2 looks"),
    ({"video": "bright.mp4"}, "a film with several faces"),
    ({"video": "wide.mp4", "face": "unchecked"}, "the film is not square.*found: 96 x 64"),
    ({"video": "mute.mp4", "prefix_seconds": 0.5}, "without a sound track.*--audio=FILE beside"),
    ({"video": "mute.mp4", "task": "a2v"}, "without a sound track"),
    ({"video": "film.mp4", "prefix_seconds": 2}, "prefix longer than the clip.*at most 1.6"),
    ({"video": "apart.mp4", "prefix_seconds": 1}, "differ in length; where: --video.*4[45] and 40"),
    ({"video": "film.mp4", "motion": "m.npy"}, "two motions; where: --motion, --video"),
    ({"video": "long.mp4"}, "the film is over the context.*found: 6.7 s"),
    ({"video": "film.mp4", "text": ""}, "nothing to say.*v2a speaks them"),
])
def test_what_a_film_is_refused_for(ask, dataset, films, seen, request_, message):
    if request_["video"] == "bright.mp4":
        film(films / "bright.mp4", grey=210, frames=15, seconds=0)
    request_ = {"audio": "", "face_codec": "lia-x.pt"} | request_ | {
        "video": str(films / request_["video"])}
    with pytest.raises(UserError, match=message):
        ask(decode.Decoder.from_dataset(dataset), **request_)


def test_a_film_is_read_by_eigenfaces(ask, dataset, films, monkeypatch):
    def follow(frames, fps):
        n = len(list(frames))
        return faces.Track(np.full((n, 2), 0.5), np.full(n, 0.9), np.full(n, 0.2))

    monkeypatch.setattr(faces, "follow", follow)
    rng = np.random.default_rng(0)
    own = eigenface.fit(rng.integers(0, 255, (20, 48, 48, 3), np.uint8), 4)
    mean, std = np.full(7, 0.1, np.float32), np.full(7, 2, np.float32)
    recipe = {"kind": "face+pose", "face_dim": 4, "pose_dim": 7, "rate": 25.0, "pose": {},
              "face": {"kind": "eigenface"}}
    plain = decode.Decoder.from_dataset(dataset)
    codecs = {**plain.codecs, "face": eigenface.pack({"ann": own}),
              "pose": {"mean": mean, "std": std}}
    stand_in = decode.Decoder(dataset.recipes | {"motion": recipe}, codecs)
    made = ask(stand_in, audio="", video=str(films / "film.mp4"), speaker="ann")
    assert made.task == "v2a" and made.speaker == "ann" and made.shown and not made.given
    own_voice = ask(decode.Decoder.from_dataset(dataset), audio="", task="tts",
                    video=str(films / "film.mp4")).conditions["speaker"]
    np.testing.assert_array_equal(made.conditions["speaker"], own_voice, "not Ann's average")
    face_TF, pose_TP = stand_in.family._motion_codec.face_and_pose(made.conditions["motion"])
    assert len(face_TF) == FRAMES and face_TF.std(0).max() > 0, "what is seen changes"
    turned = np.array([np.cos(0.1), 0, 0, np.sin(0.1)])
    np.testing.assert_allclose(pose_TP[:, :4], np.tile((turned - 0.1) / 2, (FRAMES, 1)), atol=1e-5)
    with pytest.raises(UserError, match="whose face is this.*--speaker.*ann"):
        ask(stand_in, audio="", video=str(films / "wide.mp4"))
    puppets = decode.Decoder(dataset.recipes | {"motion": recipe | {"face": {"kind": "puppet"}}},
                             codecs)
    with pytest.raises(UserError, match="nothing here reads these faces.*'puppet'.*--motion=FILE"):
        ask(puppets, audio="", video=str(films / "film.mp4"), speaker="ann")
