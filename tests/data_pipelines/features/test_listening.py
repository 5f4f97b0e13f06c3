"""AV-Flow listens: what of a partner's files reaches the model, when, and what is said of the
rest."""

import types

import jax
import numpy as np
import pytest
import soundfile

from avjax.codecs import eigenface
from avjax.errors import UserError
from avjax.inference.generator import Generator
from avjax.signal import mel, resample
from avjax.systems import api
from avjax.systems.avflow import config as avflow_config
from data_pipelines import prompting
from data_pipelines.features.avflow import listening, partner, partner_files, prompt, sound
from data_pipelines.features.common import ctc
from data_pipelines.media import faces, write_media
from data_pipelines.store import dataset as store
from data_pipelines.store.schema import Feature

UNITS, EXPRESSION, RATE = 4, 5, 22050
HZ = RATE / 256


def parts(**overrides):
    """(system, decoder) of a tiny model that listens, its tokens units: 0 is silence."""
    c = avflow_config.default()
    c.update(dict(d_model=8, num_blocks=1, num_heads=1, d_ff=8, token_dim=UNITS, face_dim=3,
                  head_dim=2, euler_steps=2, identity_dim=8, partner_token_dim=UNITS,
                  partner_expression_dim=EXPRESSION, partner_head_dim=3) | overrides)
    c.window = (2, 1)
    quiet = mel.of_speech(np.zeros(RATE, np.float32)).mean(0)
    centroids = np.stack([quiet, *(quiet + k for k in (3.0, 4.0, 5.0))])
    tokens = {"kind": "units", "level": mel.SPEECH["level"]}
    decoder = types.SimpleNamespace(
        workdir=None,
        recipes={"tokens": tokens, "partner_tokens": tokens,
                 "partner_expression": {"kind": "smirk"}, "partner_head": {}},
        codecs={"tokens": {"centroids": centroids},
                "speakers": {"names": np.array(["ann"]), "identity": np.zeros((1, 8))},
                "partner": {f"{name}_{end}": np.full(width, value, np.float32)
                            for name, width in (("expression", EXPRESSION), ("head", 3))
                            for end, value in (("min", -1.0), ("max", 3.0))}})
    decoder.codec = decoder.codecs.__getitem__
    return api.build(c), decoder


@pytest.fixture(scope="module")
def model():
    return parts()


@pytest.fixture
def built(model):
    def build(**request):
        builder = prompting.builder("avflow")
        return builder.build(builder.request("avflow", **request), *model)
    return build


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("partner"), np.random.default_rng(0)
    soundfile.write(folder / "voice.wav", 0.1 * rng.standard_normal(2 * RATE), RATE)
    soundfile.write(folder / "answer.wav", 0.1 * rng.standard_normal(RATE), RATE)
    points = rng.uniform(-1, 3, (45, EXPRESSION)).astype(np.float32)
    np.save(folder / "a--expression.npy", points)
    np.save(folder / "a--headpose.npy", np.ones((45, 3), np.float32))
    np.save(folder / "wide.npy", np.zeros((45, 7), np.float32))
    np.save(folder / "nothing--expression.npy",
            np.repeat(np.float32([[np.nan], [np.inf]]), (9, 36), 0) * np.ones(EXPRESSION, "f4"))
    np.save(folder / "objects.npy", np.array([{}], object), allow_pickle=True)
    return folder


def at(*names, folder):
    return ",".join(str(folder / name) for name in names)


def test_it_listens_as_long_as_the_partner_lasts(built, files):
    made = built(partner=at("voice.wav", "a--expression.npy", "a--headpose.npy", folder=files))
    x, frames = made.conditions, 2 * RATE // 256
    assert made.frames == frames and made.seconds == pytest.approx(2, abs=0.02)
    assert (x["tokens"][:, 0] == 1).all(), "its own tokens are silence"
    assert x["partner_tokens"][:, 0].mean() < 0.1, "it hears sound"
    points = np.load(files / "a--expression.npy")
    expected = resample.to_features((points + 1) / 2 - 1, 30.0, round(1.5 * HZ))
    np.testing.assert_allclose(x["partner_expression"][:len(expected)], expected, atol=1e-6)
    np.testing.assert_allclose(x["partner_head"][:len(expected)], 0.0, atol=1e-6)
    # they end earlier: raw 0, a neutral face looking ahead, is -0.5 of these ranges
    for name in ("partner_expression", "partner_head"):
        np.testing.assert_allclose(x[name][len(expected) + round(0.5 * HZ) + 1:], -0.5, atol=1e-6)
    change = np.abs(np.diff(x["partner_head"][len(expected) - 1:, 0]))
    assert change.max() < 0.5 / (0.4 * HZ), "half a second to rest, without a jump"


def test_it_speaks_when_it_is_told_to_and_the_partner_may_end_before(built, files):
    own = built(audio=str(files / "answer.wav")).conditions
    assert not own["partner_tokens"].any(), "no partner is no partner, not a silent one"
    made = built(audio=str(files / "answer.wav"), partner=str(files / "voice.wav"), start=1.5)
    first = round(1.5 * HZ)
    assert made.frames == first + len(own["tokens"])
    np.testing.assert_array_equal(made.conditions["tokens"][first:], own["tokens"])
    assert (made.conditions["tokens"][:first, 0] == 1).all()
    heard = made.conditions["partner_tokens"][2 * RATE // 256:]
    assert len(heard) and (heard[:, 0] == 1).all(), "a partner who has ended is silent"
    assert [r for r in made.remarks if "no expression: at rest" in r]
    alone = built(audio=str(files / "answer.wav"), start=0.5)
    assert alone.frames == round(0.5 * HZ) + len(own["tokens"])


def test_gaps_are_interpolated_and_long_ones_are_rest():
    x_TC = np.ones((400, 2), np.float32)
    x_TC[50:90] = np.nan  # half a second
    x_TC[150:350, 0] = np.nan  # 2.3 s, of one number
    rest_C = np.full(2, -1, np.float32)
    out = listening.settled(x_TC, 500, rest_C)
    assert (out[:150] == 1).all() and np.isfinite(out).all() and (out[350:400] == 1).all()
    middle = slice(150 + round(0.5 * HZ), 350 - round(0.5 * HZ))
    assert (out[middle] == -1).all() and (out[450:] == -1).all()
    assert np.abs(np.diff(out, axis=0)).max() < 0.06
    hard = listening.settled(x_TC[:10], 20, rest_C, 0.0)
    assert (hard[:10] == 1).all() and (hard[10:] == -1).all()


def test_logits_of_the_release_are_its_second_channel(tmp_path, monkeypatch):
    system, decoder = parts(token_dim=ctc.WIDTH, partner_token_dim=ctc.WIDTH)
    decoder.recipes |= dict.fromkeys(("tokens", "partner_tokens"), {"kind": ctc.KIND})
    quiet_C = np.eye(ctc.WIDTH, dtype=np.float32)[0]
    monkeypatch.setattr(sound, "weights", lambda request, workdir: "weights")
    monkeypatch.setattr(ctc, "load", lambda file: lambda audio_N: np.tile(quiet_C, (99, 1)))
    np.save(tmp_path / "SEG.npy", np.random.default_rng(0).standard_normal(
        (2, 99, ctc.WIDTH)).astype(np.float32))
    builder = prompting.builder("avflow")
    made = builder.build(builder.request("avflow", partner=str(tmp_path / "SEG.npy")), system,
                         decoder)
    own = made.conditions["tokens"]
    assert (own[:, 0] == 1).all() and made.frames == pytest.approx(99 / 49.99 * HZ, abs=1)
    np.testing.assert_allclose(made.conditions["partner_tokens"],
                               ctc.of_array(str(tmp_path / "SEG.npy"), decoder.recipes["tokens"],
                                            channel=2))
    first = builder.build(builder.request("avflow", partner=str(tmp_path / "SEG.npy"),
                                          partner_channel=1), system, decoder)
    assert np.abs(first.conditions["partner_tokens"] - made.conditions["partner_tokens"]).max() > 1


@pytest.mark.parametrize("names, message", [
    (("missing.wav",), "no such file"), ((), "nothing of a partner"),
    (("wide.npy",), r"another shape.*\(frames, 5\) of partner_expression.*\(45, 7\)"),
    (("objects.npy",), "not an array"),
    (("nothing--expression.npy",), "partner_expression has no frame"),
    (("voice.wav", "answer.wav"), "sound twice"),
    (("a--headpose.npy", "a--headpose.npy"), "partner_head twice"),
])
def test_what_is_no_partner(built, files, names, message):
    with pytest.raises(UserError, match=message):
        built(partner=at(*names, folder=files) or ",")


def test_flags_that_have_nothing_to_act_on(built, files, model):
    for request, message in (
            ({"partner": str(files / "voice.wav"), "start": 1.0}, "nothing begins then"),
            ({"audio": str(files / "answer.wav"), "start": -1.0}, "no such second"),
            ({"audio": str(files / "answer.wav"), "start": 1e9}, "no such second.*0 to 86400"),
            ({"partner": "a.wav", "partner_channel": -1}, "no such channel.*--partner_channel"),
            ({"audio": str(files / "answer.wav"), "partner_speaker": "ann"}, "without --partner")):
        with pytest.raises(UserError, match=message):
            built(**request)
    c = avflow_config.default()
    c.update(model[0].config.to_dict() | dict(partner_token_dim=0, partner_expression_dim=0,
                                              partner_head_dim=0))
    deaf = api.build(c)
    builder = prompting.builder("avflow")
    with pytest.raises(UserError, match="this model does not listen"):
        builder.build(builder.request("avflow", partner="a.wav"), deaf, model[1])


def test_a_film_is_read_by_the_eigenfaces_of_who_is_in_it(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    codec = eigenface.fit(rng.integers(0, 255, (20, 96, 96, 3), np.uint8), EXPRESSION)
    count = 20
    pictures = [np.full((128, 128, 3), 8 * k, np.uint8) for k in range(count)]
    film = tmp_path / "bob.mp4"
    write_media.write_mp4(film, pictures, 30, audio=np.zeros(round(RATE * count / 30), np.float32),
                          rate=RATE)

    def follow(frames, fps):
        n = len(list(frames))
        return faces.Track(np.full((n, 2), 0.5), np.full(n, 0.6), np.full(n, 0.2))

    monkeypatch.setattr(faces, "follow", follow)
    _, decoder = parts()
    recipes = decoder.recipes | {"partner_expression": {"kind": "eigenface"}}
    codecs = {"face": eigenface.pack({"bob": codec})}
    widths = {"partner_expression": EXPRESSION, "partner_head": 3}
    found = partner_files.read([str(film)], widths, recipes, codecs)
    assert len(found.raw["partner_expression"]) == pytest.approx(count, abs=2)
    assert found.raw["partner_expression"].std(0).max() > 0, "what is seen changes"
    np.testing.assert_allclose(found.raw["partner_head"][-1], [0, 0, 0.2], atol=1e-6)
    other = film.rename(tmp_path / "somebody.mp4")
    with pytest.raises(UserError, match="whose face is this.*bob"):
        partner_files.read([str(other)], widths, recipes, codecs)
    unread = partner_files.read([str(other)], widths, decoder.recipes, codecs)
    assert not unread.raw and "off pictures" in unread.remarks[0]


def test_listening_in_pieces_is_listening_at_once(model, built, files, monkeypatch):
    system, _ = model
    whole = built(partner=str(files / "voice.wav"))
    monkeypatch.setattr(prompt, "CHUNK", 64)
    pieces = built(partner=str(files / "voice.wav"))
    assert len(pieces.pieces) == 3
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: 0.2 * rng.standard_normal(x.shape, np.float32),
                          api.abstract_params(system))
    generator = Generator(system, seed=0)
    made = [generator.stream(params, p.pieces, "a", frames=[p.frames] if len(p.pieces) == 1 else ())
            .result for p in (whole, pieces)]
    for name in ("mel", "face", "head"):
        np.testing.assert_allclose(made[1][name], made[0][name][:, :whole.frames], atol=2e-5)


def test_scaling_is_the_extractions(model):
    arrays = model[1].codecs["partner"]
    x = np.array([[-3.0, 1.0, np.nan, 3.0, 0.0]], np.float32)
    np.testing.assert_allclose(partner.scaled(x, "partner_expression", arrays, clip=False),
                               [[-2, 0, np.nan, 1, -0.5]])
    assert partner.scaled(x, "partner_expression", arrays, clip=True)[0, 0] == -1


def test_the_partner_of_an_example_is_a_partner(model, files, tmp_path):
    system, decoder = model
    rng, widths = np.random.default_rng(1), {name: system.example_spec[name].shape[-1]
                                             for name in system.example_spec if name != "identity"}
    rows = [{"id": f"v/{i}.a", "speaker": "ann", "identity": np.zeros(8, np.float32),
             **{name: rng.standard_normal((60 + 20 * i, width)).astype(np.float32)
                for name, width in widths.items()}} for i in range(2)]
    features = {"id": Feature((), "str", "id"), "speaker": Feature((), "str", "who"),
                "identity": Feature((8,), "float32", "who"),
                **{name: Feature((None, width), "float32", name, rate=HZ)
                   for name, width in widths.items()}}
    dataset = store.write_dataset(tmp_path / "data", name="talk", description="toy", codecs={},
                                  features=features, splits={"valid": rows}, progress=False,
                                  recipes=decoder.recipes | {"mel": mel.SPEECH})
    builder = prompting.builder("avflow")

    def built(**request):
        return builder.build(builder.request("avflow", data=str(dataset.dir), **request), system,
                             decoder).conditions

    heard = built(partner="valid/v/1.a")
    for name in ("partner_tokens", "partner_expression", "partner_head"):
        np.testing.assert_array_equal(heard[name], rows[1][name])
    assert (heard["tokens"][:, 0] == 1).all()
    swapped = built(example="valid/1", partner="valid/0")
    np.testing.assert_array_equal(swapped["tokens"], rows[1]["tokens"])
    np.testing.assert_array_equal(swapped["partner_head"][:60], rows[0]["partner_head"])
    np.testing.assert_allclose(swapped["partner_tokens"][60:, 0], 1, err_msg="then they are silent")
    voice = built(example="valid/0", partner=str(files / "voice.wav"))
    np.testing.assert_array_equal(voice["tokens"][:60], rows[0]["tokens"])
    assert len(voice["tokens"]) == 2 * RATE // 256
