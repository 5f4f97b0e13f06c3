"""LIA-X where Talker meets it: motion read of clips' pictures, and drawn on a portrait. The network
itself is tests/codecs/test_lia_x.py's; here a toy stands in its place."""

import types

import av
import cv2
import numpy as np
import pytest
import soundfile

from avjax.codecs.lia_x import codec
from avjax.errors import UserError
from avjax.systems import api
from avjax.systems.talker import config as talker_config
from data_pipelines import decode, prompting
from data_pipelines.features.talker import extract as talker
from data_pipelines.live import parts, speakers
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
    monkeypatch.setattr(codec, "loaded", lambda path: Toy())


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
        patch.setattr(codec, "loaded", lambda path: Toy())
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
