import hashlib
import json

import numpy as np
import pytest

from avjax.encoders import espeak
from avjax.errors import UserError
from data_pipelines.puppets import (
    articulation,
    build,
    dialogue,
    face_code,
    identities,
    performance,
    render,
    text,
)
from data_pipelines.puppets.voice import speak, voice_of
from data_pipelines.store import dataset as store
from data_pipelines.store.columns import PREFIXES

WHO = identities.identities(9, 0)
ADA = WHO["ada"]
TINY = {"sentences": 4, "valid": 2, "test": 2, "speakers": 3, "dialogues": 1, "turns": 4,
        "progress": False}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("puppets") / "clips"
    return build.prepare(folder, seed=3,
                         **TINY), store.open_dataset(folder.with_name("clips_dialogues"))


def content(dataset) -> str:
    digest = hashlib.sha256()
    for split in dataset.splits:
        for clip in dataset.source(split):
            for name in sorted(clip):
                value = clip[name]
                digest.update(value.encode() if isinstance(value, str)
                              else np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()


def test_same_seed_same_corpus_other_seed_another(corpus, tmp_path):
    build.prepare(tmp_path / "again", seed=3, **TINY)
    assert content(store.open_dataset(tmp_path / "again")) == content(corpus[0])
    assert content(store.open_dataset(tmp_path / "again_dialogues")) == content(corpus[1])
    other = build.prepare(tmp_path / "other", seed=4, **(TINY | {"dialogues": 0}))
    assert content(other) != content(corpus[0])


@pytest.mark.slow
def test_processes_do_not_change_the_corpus(corpus, tmp_path):
    parallel = build.prepare(tmp_path / "two", seed=3, processes=2, **(TINY | {"dialogues": 0}))
    assert content(parallel) == content(corpus[0])


def test_splits_share_no_sentence_and_hold_out_a_speaker(corpus):
    clips = {s: list(corpus[0].source(s, ("text", "speaker"))) for s in corpus[0].splits}
    assert set(clips) == {"train", "valid", "test_speaker"}
    texts = {s: {c["text"] for c in v} for s, v in clips.items()}
    assert not texts["train"] & (texts["valid"] | texts["test_speaker"])
    assert {c["speaker"] for c in clips["test_speaker"]} == {identities.HELD_OUT}
    assert identities.HELD_OUT not in {c["speaker"] for s in ("train", "valid") for c in clips[s]}
    for c in corpus[1].source("train", ("speaker", "partner_speaker")):
        assert identities.HELD_OUT not in (c["speaker"], c["partner_speaker"])
    for c in corpus[1].source("test_speaker", ("speaker", "partner_speaker")):
        assert identities.HELD_OUT in (c["speaker"], c["partner_speaker"])


def test_streams_cover_the_clip(corpus):
    for dataset in corpus:
        for clip in dataset.source("train"):
            duration = len(clip["audio"]) / espeak.SAMPLE_RATE
            for name in [n for n in clip if dataset.features[n].rate]:
                rate = dataset.features[name].rate
                assert abs(len(clip[name]) / rate - duration) <= 1 / rate, name
            np.testing.assert_allclose(np.linalg.norm(clip["pose"][:, :4], axis=1), 1, atol=1e-5)
            spans = json.loads(clip["phonemes"])
            assert spans[0][1] == 0 and abs(spans[-1][2] - duration) < 1e-3
            assert all(abs(a[2] - b[1]) < 1e-4 and b[2] > b[1] for a,
                       b in zip(spans[:-1], spans[1:], strict=True))
    train = corpus[0]
    z = np.concatenate([c["pose_z"] for c in train.source("train", ("pose_z",))])
    np.testing.assert_allclose(z.mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(z.std(0), 1, atol=1e-3)


def test_words_are_where_the_sound_is(corpus):
    for clip in corpus[0].source("valid"):
        words = json.loads(clip["words"])
        assert [w.lower() for w, _, _ in words] == [w.strip(".,?!").lower()
                                                    for w in clip["text"].split()]
        time = np.arange(len(clip["audio"])) / espeak.SAMPLE_RATE
        inside = np.any([(time >= a) & (time < b) for _, a, b in words], axis=0)
        power = clip["audio"].astype(np.float64) ** 2
        assert power[inside].mean() > 100 * (power[~inside].mean() + 1e-9)


def test_lips_close_for_bilabials_and_open_for_vowels(corpus):
    codec = corpus[0].codec("face")
    closed, opened = [], []
    for split in ("train", "valid"):
        for clip in corpus[0].source(split):
            aperture, width = face_code.lips(face_code.decode(clip["face"], codec))
            time = np.arange(len(aperture)) / performance.FPS
            for symbol, t0, t1 in json.loads(clip["phonemes"]):
                classes, middle = espeak.classes_of(symbol), (t0 + t1) / 2
                if classes and classes[0] in articulation.BILABIALS:
                    near = (time >= t0 - 0.03) & (time <= max(t1, t0 + 0.05))
                    closed.append((aperture[near] < 0.02 * width[near]).any())
                elif classes and classes[0] in "æɑa":
                    opened.append(np.interp(middle, time, aperture))
    assert len(closed) > 20 and np.mean(closed) == 1
    assert len(opened) > 5 and np.mean(opened) > 0.15


def test_face_codes_are_an_invertible_orthonormal_mix(corpus):
    codec = corpus[0].codec("face")
    np.testing.assert_allclose(codec["mix"] @ codec["mix"].T, np.eye(face_code.WIDTH), atol=1e-5)
    assert np.abs(codec["mix"]).max() < 0.95  # really mixed
    x = np.random.default_rng(0).normal(size=(20, face_code.WIDTH)).astype(np.float32)
    back = face_code.decode(face_code.encode(x, codec), codec)
    np.testing.assert_allclose(np.stack([back[n] for n in face_code.NAMES], 1), x, atol=1e-4)


def pitch_of(audio) -> float:
    """Median pitch (Hz) of the louder frames, by autocorrelation."""
    frames = np.lib.stride_tricks.sliding_window_view(audio.astype(np.float64), 1024)[::512]
    frames = frames[(frames ** 2).mean(1) > (frames ** 2).mean() * 0.5]
    lags = np.arange(60, 360)
    spectrum = np.abs(np.fft.rfft(frames * np.hanning(1024), 2048)) ** 2
    return espeak.SAMPLE_RATE / np.median(lags[np.fft.irfft(spectrum)[:, lags].argmax(1)])


def test_identity_decides_the_voice():
    rng = np.random.default_rng(1)
    who = rng.uniform(-0.9, 0.9, (12, identities.WIDTH))
    spoken = [speak("My mother found a brown bear.", v) for v in who]
    expected = [np.log(np.mean(voice_of(v)["pitch"])) for v in who]
    measured = np.log([pitch_of(s.audio) for s in spoken])
    assert np.corrcoef(expected, measured)[0, 1] > 0.95
    assert np.corrcoef(who[:, 2], [s.duration for s in spoken])[0, 1] < -0.9
    assert np.ptp([voice_of(v)["formants"] for v in WHO.values()]) >= 5


def test_held_out_speaker_lies_among_the_known():
    from scipy.optimize import nnls

    known = np.array([v for n, v in WHO.items() if n != identities.HELD_OUT], np.float64)
    a = np.vstack([known.T, np.ones(len(known))])
    weights, rest = nnls(a, np.append(WHO[identities.HELD_OUT], 1.0))
    assert rest < 1e-5 and (weights > 0.1).sum() >= 2
    assert len(WHO) == 10 and min(np.linalg.norm(x - y) for i, x in enumerate(known)
                                  for y in known[:i]) > 0.5


def test_little_is_random():
    spoken = speak("Maybe, my brother opened the big blue window. Why is the pizza so warm today?",
                   ADA)
    runs = [performance.perform(spoken.phonemes, spoken.duration, ADA, np.random.default_rng(i))
            for i in range(6)]
    for stream, limit in ((0, 0.1), (1, 0.02)):
        x = np.stack([r[stream] for r in runs])
        scale = x.std((0, 1)) + 1e-3
        assert (x.std(0) / scale).mean() > 0 and ((x.var(0) / scale ** 2).mean() < limit)


def test_dialogues_have_turns_overlaps_and_reacting_listeners():
    rng = np.random.default_rng(5)
    pair = [("ada", WHO["ada"]), ("ben", WHO["ben"])]
    talk = dialogue.converse(pair, [text.opening(rng), *text.sentences(9, rng)], rng)
    kinds = {e["kind"] for e in talk.events}
    assert kinds == {"turn", "backchannel", "overlap", "gap", "pause"}
    second = espeak.SAMPLE_RATE
    for e in talk.events:
        if e["kind"] in ("turn", "backchannel"):
            sound = (
                talk.channels[e["speaker"]].audio[int(e["start"] * second):int(e["end"] * second)])
            assert np.abs(sound).max() > 1000
        if e["kind"] == "overlap":
            assert all(np.abs(c.audio[int(e["start"] * second):int(e["end"] * second) + 400]).max(
                ) > 0
                       for c in talk.channels)
    assert sum(len(c.reactions) for c in talk.channels) == sum(e["kind"] == "backchannel"
                                                               for e in talk.events) >= 2
    for channel in talk.channels:
        for r in channel.reactions:
            with_it, without = (performance.perform(channel.phonemes, talk.duration,
                                                    channel.identity, np.random.default_rng(0),
                                                    reactions)
                                for reactions in (channel.reactions,
                                                  [x for x in channel.reactions if x != r]))
            at = slice(int(r.start * 30), int((r.end + 0.3) * 30))
            smile = face_code.INDEX["smile"]
            assert (with_it[0] - without[0])[at, smile].max() > 0.3
            assert (with_it[1] - without[1])[at, 1].max() > 0.05  # the quaternion's x: looking down


@pytest.mark.parametrize("people", [3, 4])
def test_more_than_two_take_turns(people):
    """Each has spoken before anybody speaks again, nobody twice in a row or over oneself, and
    whoever listens may answer."""
    rng, who = np.random.default_rng(people), list(WHO.items())[:people]
    talk = dialogue.converse(who, [text.opening(rng), *text.sentences(11, rng)], rng)
    said = [e for e in talk.events if e["kind"] in ("turn", "backchannel")]
    turns = [e["speaker"] for e in said if e["kind"] == "turn"]
    assert set(turns[:people]) == set(range(people)) and len(turns) == 12
    assert all(a != b for a, b in zip(turns[:-1], turns[1:], strict=True))
    alternating = [turns[k % people] for k in range(12)]
    assert turns != alternating, "who comes next is drawn"
    assert len({len(c.audio) for c in talk.channels}) == 1 and len(talk.channels) == people
    for s, channel in enumerate(talk.channels):
        own = sorted((e["start"], e["end"]) for e in said if e["speaker"] == s)
        assert all(a[1] <= b[0] for a, b in zip(own[:-1], own[1:], strict=True))
        time = np.arange(len(channel.audio)) / espeak.SAMPLE_RATE
        inside = np.any([(time >= a - 0.1) & (time < b + 0.1) for a, b in own], axis=0)
        assert not channel.audio[~inside].any() and channel.audio[inside].any()
    answered = {(e["speaker"], next(t["speaker"] for t in reversed(said) if t["kind"] == "turn"
                                    and t["start"] <= e["start"])) for e in said
                if e["kind"] == "backchannel"}
    assert len(answered) > 2 and all(a != b for a, b in answered)


def test_dialogues_of_three_are_written_from_every_side(tmp_path):
    options = TINY | {"speakers": 4, "dialogues": 1, "people": 3, "sentences": 1}
    build.prepare(tmp_path / "clips", seed=3, held_out=2, **options)
    talks = store.open_dataset(tmp_path / "clips_dialogues")
    for split in talks.splits:
        sides = list(talks.source(split))
        first = sides[0]
        names = [first[f"{p}speaker"] for p in PREFIXES[:3]]
        assert len(set(names)) == 3 and len(sides) == 3
        assert (split == "test_speaker") == ("zoe" in names) == ("zoe2" in names)
        for k, side in enumerate(sides):
            order = [k, *(s for s in range(3) if s != k)]
            assert [side[f"{p}speaker"] for p in PREFIXES[:3]] == [names[s] for s in order]
            for name in ("audio", "face", "pose_z", "identity"):
                for prefix, s in zip(PREFIXES, order, strict=False):
                    np.testing.assert_array_equal(side[prefix + name], first[PREFIXES[s] + name])
    assert "partner2_face" in talks.recipes and "partner3_face" not in talks.features
    with pytest.raises(UserError, match="too many people.*--people.*at most 4, of 4 speakers.*5"):
        build.prepare(tmp_path / "more", seed=3, **(options | {"people": 5, "turns": 9}))


def test_renderer_shows_every_articulator_and_the_pose():
    rest = {n: 0.0 for n in face_code.NAMES} | {"lip_aperture": 0.9, "jaw_open": 0.5}

    def draw(pose=(1, 0, 0, 0, 0, 0, 0), **changes):
        values = {n: np.array([v]) for n, v in (rest | changes).items()}
        return render.render(values, np.array([pose], float), ADA, size=128)[0].astype(int)

    base = draw()
    assert base.shape == (128, 128, 3)
    for name in face_code.NAMES:
        assert (np.abs(draw(**{name: rest[name] + 0.8}) - base).sum(-1) > 30).sum() >= 8, name
    q = performance.quaternion(np.array([0.3, 0, 0]), np.array([0, 0.3, 0]), np.array([0, 0, 0.3]))
    centre = [np.array(np.nonzero(np.abs(draw((*r, 0, 0, 0)) - base).sum(-1) > 30)).size for r in q]
    assert min(centre) > 1000

    def dark(image):  # where pupils and lids are
        return np.argwhere(image[40:70].sum(-1) < 150).mean(0)

    down, right = draw((*q[1], 0, 0, 0)), draw((*q[0], 0, 0, 0))
    assert dark(down)[0] > dark(base)[0] and dark(right)[1] > dark(base)[1]
    moved = draw((1, 0, 0, 0, 0.1, 0, 0))
    assert dark(moved)[1] > dark(base)[1] + 3
    assert (render.portrait(ADA) != render.portrait(WHO["ben"])).any()


def test_every_word_is_in_the_recognisers_dictionary():
    pocketsphinx = pytest.importorskip("pocketsphinx")
    with open(pocketsphinx.get_model_path("en-us/cmudict-en-us.dict")) as lines:
        known = {line.split()[0] for line in lines}
    vocabulary = text.vocabulary()
    assert 150 <= len(vocabulary) <= 250 and not [w for w in vocabulary if w not in known]
    said = {w for line in text.sentences(300, np.random.default_rng(0))
            for w in line.lower().split()}
    assert {w.strip(".,?!") for w in said} <= set(vocabulary)


def test_existing_folder_is_refused(corpus):
    with pytest.raises(UserError, match="refusing to overwrite"):
        build.prepare(corpus[0].dir, seed=3, **TINY)


def test_more_held_out_speakers_leave_the_others_as_they_are():
    more = identities.identities(9, 0, held_out=4)
    assert list(more) == [*WHO, "zoe2", "zoe3", "zoe4"]
    assert all((more[name] == WHO[name]).all() for name in WHO)
    new = np.stack([more[name] for name in identities.held_out_names(4)])
    assert min(np.linalg.norm(a - b) for i, a in enumerate(new) for b in new[:i]) > 0.1


def test_small_pictures_are_the_large_ones_averaged_and_zoom_enlarges_the_head():
    frames = 300  # more than are worked out at once
    values = {name: 0.3 * np.sin(np.arange(frames) / 7 + i) for i,
              name in enumerate(face_code.NAMES)}
    pose = np.concatenate([performance.quaternion(*0.1
                                                  * np.sin(np.arange(frames) / 9
                                                           + np.arange(3)[:, None])),
                           np.zeros((frames, 3))], 1)
    small, large = render.render(values, pose, ADA, 64), render.render(values, pose, ADA, 128)
    averaged = large.reshape(frames, 64, 2, 64, 2, 3).mean((2, 4))
    assert np.abs(small - averaged).max() <= 1
    alone = render.render({n: v[280:281] for n, v in values.items()}, pose[280:281], ADA, 64)[0]
    np.testing.assert_array_equal(alone, small[280])

    def height(picture):
        # unlike the background
        rows = (np.abs(picture[:, 56:72].astype(int) - picture[:, :1]) > 30).any((1, 2))
        return np.flatnonzero(~rows[:64])[-1] if not rows[:64].all() else -1

    near, far = render.portrait(ADA, 128, 1.2), render.portrait(ADA, 128)
    assert 0 <= height(near) < height(far) - 5  # the hair's top is higher up
