"""Clips -> features: one clock for all streams, recipes that tell datasets apart, nothing fitted on
held-out clips."""

import json
import types

import jax
import numpy as np
import pytest

from avjax.checkpoint.checkpoints import Checkpoints
from avjax.encoders import wav2vec2
from avjax.errors import UserError
from avjax.signal import kmeans, level, mel, resample
from avjax.systems.api import Spec, new_params
from avjax.systems.head_vae import system as head_vae
from data_pipelines import extract
from data_pipelines.features.avflow import head_pose, partner
from data_pipelines.features.common import ctc
from data_pipelines.loading import loader
from data_pipelines.store import dataset as store
from data_pipelines.store.schema import Feature, arrays_hash, recipe_hash

HOP = 256 / 22050
CLIPS = {
    "id": Feature((), "str", "name"),
    "speaker": Feature((), "str", "who"),
    "text": Feature((), "str", "what"),
    "words": Feature((), "str", "when"),
    "phonemes": Feature((), "str", "when"),
    "identity": Feature((8,), "float32", "identity"),
    "audio": Feature((None,), "int16", "speech", "1/32768", 22050.0),
    "face": Feature((None, 3), "float32", "face code", "", 30.0),
    "pose": Feature((None, 7), "float32", "quaternion wxyz, translation", "", 30.0),
    "pose_z": Feature((None, 7), "float32", "z-scored pose", "", 30.0),
    "phones": Feature((None, 4), "float32", "phoneme features", "", 50.0),
}
PARTNER = {f"partner_{n}": CLIPS[n] for n in ("speaker", "audio", "face", "pose", "phones")}


def clip(i, seconds=1.7, prefix="train", partner=False):
    """Every visual stream is its own time in seconds, so that a feature frame says when it is."""
    rng = np.random.default_rng(i)

    def streams():
        ramp30, ramp50 = np.arange(round(seconds * 30)) / 30, np.arange(round(seconds * 50)) / 50
        angle = 0.3 * np.sin(ramp30 + i)
        pose = np.stack([np.cos(angle / 2), np.sin(angle / 2), *[0 * angle] * 5], 1)
        audio = rng.normal(size=round(seconds * 22050)) * 3000
        return {"audio": audio.astype(np.int16),
                "face": np.tile(ramp30[:, None], 3).astype(np.float32),
                "pose": pose.astype(np.float32),
                "phones": np.tile(ramp50[:, None], 4).astype(np.float32)}

    own = streams()
    out = {"id": f"{prefix}{i}", "speaker": "ann", "text": "Hello.",
           "words": json.dumps([["hello", 0.1, 0.5]]),
           "phonemes": "[]", "identity": np.full(8, i, np.float32), **own,
           "pose_z": np.tile(own["face"][:, :1], 7)}
    if partner:
        other = {k: v[:len(v) // 2 * 2] for k, v in streams().items()}
        out |= {"partner_speaker": "bob", **{f"partner_{k}": v for k, v in other.items()}}
    return out


def write_clips(out, *, partner=False, drop=(), train=None, valid=None, recipes=None):
    features = {k: v for k, v in (CLIPS | (PARTNER if partner else {})).items() if k not in drop}
    splits = {"train": train or [clip(i, 1.2 + 0.3 * i, partner=partner) for i in range(4)],
              "valid": valid or [clip(9, prefix="valid", partner=partner)]}
    splits = {s: [{k: v for k, v in c.items() if k not in drop} for c in cs] for s,
              cs in splits.items()}
    return store.write_dataset(out, name="clips", description="for tests", features=features,
                               splits=splits, recipes=recipes
                               or {"face": {"kind": "ramp"}, "phones": {"kind": "ramp"}},
                               codecs={"face": {"mix": np.eye(3)},
                                       "pose": {"mean": np.zeros(7), "std": np.ones(7)}})


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp("extract") / "clips")


@pytest.fixture(scope="module")
def features(clips, tmp_path_factory):
    return extract.extract(clips.dir, tmp_path_factory.mktemp("extract") / "features")


def test_streams_share_one_clock(features):
    for split in features.splits:
        for example in features.source(split):
            frames = len(example["mel"])
            seconds = (np.arange(frames) + 0.5) * HOP
            for name in ("tokens", "face", "head"):
                assert len(example[name]) == frames and example[name].dtype == np.float32
                held = seconds < 1.0  # the last source frame is held at the end
                np.testing.assert_allclose(example[name][held, 0], seconds[held], atol=1e-4)


def test_a_click_and_a_blink_at_one_instant_stay_together(tmp_path):
    """Sound and picture of one event: the loudest mel frame and the peak of the face are the same
    moment."""
    one = clip(0, 2.0)
    one["audio"][:] = 0
    one["audio"][22050:22050 + 64] = 30000  # at one second
    one["face"][:] = 0
    one["face"][30] = 1.0
    dataset = write_clips(tmp_path / "clips", train=[one])
    example = extract.extract(dataset.dir, tmp_path / "features").source("train")[0]
    loudness = mel.denormalise(example["mel"]).mean(1)
    assert abs((loudness - loudness.min()).argmax() - example["face"][:, 0].argmax()) <= 1


def test_mel_is_the_codecs_and_what_clips_say_is_carried(clips, features):
    for i, one in enumerate(clips.source("train")):
        example = features.source("train")[i]
        audio = level.normalised(one["audio"] / np.float32(32768), 22050)
        assert level.speech_db(audio, 22050) == pytest.approx(-20.0, abs=1e-3)
        np.testing.assert_array_equal(example["mel"], mel.normalise(mel.log_mel(audio)))
        for name in ("id", "speaker", "text", "words", "phonemes", "identity"):
            np.testing.assert_array_equal(example[name], one[name])
    assert features.splits == clips.splits
    assert features.recipes["mel"] == mel.RECIPE | {"level": level.RECIPE}
    np.testing.assert_array_equal(features.codec("face")["mix"], np.eye(3))
    assert "pose" in features.codecs


def test_there_and_back_again_by_the_clock():
    seconds = np.arange(150) / 30
    x = np.stack([np.sin(2 * np.pi * seconds), np.cos(3 * seconds)], 1).astype(np.float32)
    frames = int(5 * 22050) // 256
    back = resample.from_features(resample.to_features(x, 30.0, frames), 30.0)
    assert len(back) == 150
    np.testing.assert_allclose(back[1:-1], x[1:-1], atol=5e-3)
    shifted = resample.from_features(resample.to_features(x, 30.0, frames, mode="released"), 30.0)
    # half a frame off: the two clocks are really different
    assert np.abs(shifted[1:-1] - x[1:-1]).max() > 0.05


def test_released_mode_interpolates_as_the_published_code_does():
    """Numbers of torch.nn.functional.interpolate(scale_factor, mode="linear",
    align_corners=False)."""
    for source, scale, expected in ((3, 5 / 3, [0, 0.4, 1.0, 1.6, 2.0]), (4, 0.5, [0.5, 2.5])):
        x_T1 = np.arange(source, dtype=np.float32)[:, None]
        there = resample.to_features(x_T1, mel.FRAME_RATE / scale, len(expected), mode="released")
        np.testing.assert_allclose(there[:, 0], expected, atol=1e-6)
        back = resample.from_features(x_T1, mel.FRAME_RATE * scale, len(expected), mode="released")
        np.testing.assert_allclose(back, there, atol=1e-6)


def test_units_are_fitted_on_train_only_and_repeat(tmp_path, clips):
    one = extract.extract(clips.dir, tmp_path / "a", tokens="units", units=8)
    two = extract.extract(clips.dir, tmp_path / "b", tokens="units", units=8)
    louder = write_clips(tmp_path / "clips", valid=[clip(77, 3.0, prefix="valid")])
    three = extract.extract(louder.dir, tmp_path / "c", tokens="units", units=8)
    for other in (two, three):  # valid differs in the third; the fit must not
        np.testing.assert_array_equal(one.codec("tokens")["centroids"],
                                      other.codec("tokens")["centroids"])
        assert one.recipes["tokens"] == other.recipes["tokens"]
    for example in one.source("train"):
        assert example["tokens"].shape == (len(example["mel"]),
                                           8) and (example["tokens"].sum(1) == 1).all()
        distance = ((example["mel"][:, None] - one.codec("tokens")["centroids"]) ** 2).sum(-1)
        np.testing.assert_array_equal(example["tokens"].argmax(1), distance.argmin(1))
    four = extract.extract(clips.dir, tmp_path / "d", tokens="units", units=8, seed=1)
    assert recipe_hash(four.recipes["tokens"]) != recipe_hash(one.recipes["tokens"])


def test_kmeans_finds_clusters_that_are_there():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(6, 5)) * 10
    x = np.concatenate([c + 0.1 * rng.normal(size=(50, 5)) for c in centres]).astype(np.float32)
    found = kmeans.fit(x, 6, seed=1)
    np.testing.assert_allclose(found[np.lexsort(found.T)], centres[np.lexsort(centres.T)], atol=0.1)
    np.testing.assert_array_equal(kmeans.fit(x, 6, seed=1), found)
    assert len(set(kmeans.assign(x, found)[::50])) == 6
    with pytest.raises(UserError, match="too few"):
        kmeans.fit(np.zeros((100, 5), np.float32), 2)


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Options for a network whose logits are logit(samples of the frame, its first one)."""
    def options(logit):
        def network(audio):
            starts = range(0, len(audio) - 399, 320)
            return np.tile([[logit(audio[k:k + 400], k)] for k in starts],
                           29).astype(np.float32)

        network.params = {"weight": np.zeros(1)}
        network.config = wav2vec2.Wav2Vec2Config(num_heads=1)
        monkeypatch.setattr(wav2vec2.Wav2Vec2CTC, "from_checkpoint", lambda path: network)
        ctc.load.cache_clear()
        (tmp_path / "weights").write_bytes(b"x")
        return {"tokens": "wav2vec2", "weights": tmp_path / "weights"}

    return options


def test_wav2vec2_logits_land_on_the_clock(tmp_path, clips, stand_in):
    """Those of a frame are the time of its centre."""
    dataset = extract.extract(clips.dir, tmp_path / "out",
                              **stand_in(lambda heard, first: (first + 200) / 16000))
    tokens = dataset.source("train")[0]["tokens"]
    seconds = (np.arange(len(tokens)) + 0.5) * HOP
    inside = (seconds > 0.0125) & (seconds < 1.15)
    np.testing.assert_allclose(tokens[inside, 0], seconds[inside], atol=1e-4)


def test_tokens_are_of_the_own_speech_where_a_voice_activity_says_so(tmp_path, stand_in):
    """The logits are the loudness of what is heard."""
    options = stand_in(lambda heard, first: np.abs(heard).max())
    both = []
    for i in range(2):  # one speaks in the first half, the other in the second, and both leak
        one = clip(i, 4.0, partner=True)
        first = np.arange(len(one["audio"])) < len(one["audio"]) // 2
        speech = one["audio"].astype(np.float64)
        one["audio"], one["partner_audio"] = ((speech * np.where(mask, 1, 0.05)).astype(np.int16)
                                              for mask in (first, ~first))
        both.append(one)
    clips = write_clips(tmp_path / "clips", partner=True, train=both[:1], valid=both[1:])
    recipes = []
    for activity in (None, "energy"):
        out = extract.extract(clips.dir, tmp_path / f"out{activity}", activity=activity, **options)
        recipes.append(out.recipes["tokens"])
        example = out.source("train")[0]
        third = len(example["tokens"]) // 3
        for name, leaked in (("tokens", slice(2 * third, None)), ("partner_tokens", slice(third))):
            assert (example[name][leaked] > 0).any() == (activity is None)
            own = example[name][slice(third) if name == "tokens" else slice(2 * third, None)]
            assert (own > 0).mean() > 0.95
    assert recipes[1]["activity"]["kind"] == "energy" and "activity" not in recipes[0]


@pytest.fixture(scope="module")
def vae_workdir(tmp_path_factory):
    """An untrained head VAE's checkpoint."""
    workdir = tmp_path_factory.mktemp("vae")
    config = head_vae.released()
    params = new_params(head_vae.System(config))
    saver = Checkpoints(workdir)
    saver.save(1, {"step": jax.numpy.int32(1), "params": params},
               {"config": {"system": config.to_dict()}})
    saver.close()
    return workdir, head_vae.System(config), params


def test_head_vae_latents_do_not_depend_on_padding(tmp_path, clips, vae_workdir):
    workdir, system, params = vae_workdir
    dataset = extract.extract(clips.dir, tmp_path / "out", head="vae", head_vae=workdir)
    assert dataset.recipes["head"]["arrays"] == arrays_hash(dataset.codec("head"))
    for i in (0, 3):
        one, example = clips.source("train")[i], dataset.source("train")[i]
        latent = np.asarray(system.encode(params, one["pose_z"][None]))[0]
        expected = resample.to_features(latent, 30.0, len(example["mel"]))
        np.testing.assert_allclose(example["head"], expected, atol=1e-5)
        decoded = head_pose.decode(dataset.recipes["head"], dataset.codec("head"), latent)
        np.testing.assert_allclose(decoded, np.asarray(system.decode(params, latent[None]))[0],
                                   atol=1e-5)


def test_dialogues_carry_the_partner(tmp_path):
    dataset = write_clips(tmp_path / "clips", partner=True)
    out = extract.extract(dataset.dir, tmp_path / "out")
    for split in out.splits:
        for example in out.source(split):
            frames = len(example["mel"])
            assert example["partner_tokens"].shape == (frames,
                                                       4) and example["partner_head"].shape == (
                                                           frames, 3)
            assert example["partner_expression"].shape == (frames, 3)
            assert example["partner_speaker"] == "bob"
            assert np.abs(example["partner_head"]).max() <= 1 and np.abs(
                example["partner_expression"]).max() <= 1
    everything = np.concatenate([e["partner_expression"] for e in out.source("train")])
    assert everything.min() < -0.95 and everything.max() > 0.95


def test_rotation_vectors():
    half = np.sqrt(0.5)
    q = np.array([[1, 0, 0, 0], [half, half, 0, 0], [-half, 0, -half, 0], [0.5, 0.5, 0.5, 0.5]])
    expected = [[0, 0, 0], [np.pi / 2, 0, 0], [0, np.pi / 2, 0], [2 * np.pi / 3 / np.sqrt(3)] * 3]
    np.testing.assert_allclose(partner.rotation_vector(q), expected, atol=1e-6)


def test_loader_takes_extracted_features_and_refuses_another_mel(features):
    spec = {"mel": Spec(("batch", "time", 80), "float32", "mel", rate=22050 / 256,
                        recipe=dict(mel.SPEECH)),
            "tokens": Spec(("batch", "time", 4), "float32", "tokens", rate=22050 / 256)}
    model = types.SimpleNamespace(batch_spec=spec, example_spec=spec, rows=None)
    with loader.make_loader(features, "train", model, batch_size=2, segment=50, seed=0) as batches:
        assert next(batches)["mel"].shape == (2, 50, 80)
    spec["mel"] = Spec(spec["mel"].shape, "float32", "mel", rate=22050 / 256, recipe=mel.SPEECH
                       | {"fmax": 11025.0})
    with pytest.raises(UserError, match="recipe of 'mel' differs.*fmax=11025.0.*fmax=8000.0"):
        loader.make_loader(features, "train", model, batch_size=2, segment=50, seed=0)


@pytest.mark.parametrize("drop, arguments, message", [
    ((), dict(tokens="letters"), "unknown tokens.*phones or units or wav2vec2"),
    ((), dict(head="neck"), "unknown head"),
    ((), dict(mode="cubic"), "unknown resample"),
    ((), dict(tokens="wav2vec2"), "need weights.*hint"),
    ((), dict(tokens="wav2vec2", weights="/nowhere"), "need weights.*nowhere"),
    ((), dict(activity="energy"), "do not look at the voice activity.*wav2vec2"),
    ((), dict(tokens="wav2vec2", activity="loud"), "unknown voice activity.*energy or neural"),
    ((), dict(head="vae"), "head VAE is needed"),
    ((), dict(head="vae", head_vae="/nowhere"), "no checkpoint here.*nowhere"),
    ((), dict(fit_split="test", tokens="units"), "unknown split"),
    (("phones",), {}, "clips lack 'phones'.*units"),
    (("face",), {}, "clips lack 'face'"),
    (("pose_z",), {}, "no head pose"),
])
def test_what_cannot_be_extracted_is_said_before_anything_is_written(tmp_path, drop, arguments,
                                                                     message):
    dataset = write_clips(tmp_path / "clips", drop=drop)
    with pytest.raises(UserError, match=message):
        extract.extract(dataset.dir, tmp_path / "out", **arguments)
    assert [p.name for p in tmp_path.iterdir()] == ["clips"]


def test_unusable_clips_are_left_out_where_some_may_be(tmp_path, monkeypatch):
    """Whatever a clip does; what is nobody's fault ends the job all the same."""
    dataset = write_clips(tmp_path / "clips", train=[clip(0), clip(1, 0.02), clip(2, 1.25)])
    real, odd = mel.log_mel, len(dataset.source("train")[2]["audio"])

    def log_mel(audio, error=RuntimeError("odd")):
        if len(audio) == odd:
            raise error
        return real(audio)

    monkeypatch.setattr(mel, "log_mel", log_mel)
    made = extract.extract(dataset.dir, tmp_path / "out", tokens="units", units=4, max_bad=0.7,
                           progress=False)
    assert made.ids["train"] == ["train0"]
    told = [json.loads(line)
            for line in (tmp_path / "out.quarantine.jsonl").read_text().splitlines()]
    assert [t["id"] for t in told] == ["train1",
                                       "train2"] and "RuntimeError: odd" in told[1]["detail"]
    with pytest.raises(UserError, match="too many unusable"):
        extract.extract(dataset.dir, tmp_path / "strict", max_bad=0.2, progress=False)
    monkeypatch.setattr(mel, "log_mel", lambda audio: log_mel(audio, MemoryError()))
    with pytest.raises(MemoryError):
        extract.extract(dataset.dir, tmp_path / "more", max_bad=0.7, progress=False)


def test_an_unusable_clip_is_named_and_nothing_is_left(tmp_path):
    dataset = write_clips(tmp_path / "clips", train=[clip(0), clip(1, 0.02)])
    with pytest.raises(UserError, match="cannot extract clip 'train1'.*too short"):
        extract.extract(dataset.dir, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["clips"]
    with pytest.raises(UserError, match="refusing to overwrite"):
        extract.extract(dataset.dir, dataset.dir)
