"""Metrics against recorded values of the implementations researchers use, and against cases checked
by hand."""

import numpy as np
import pytest

from avjax.errors import UserError
from eval.metrics import alignment, beats, diversity, frechet, intelligibility, lips, onsets, speech
from tests.golden_files import cases, matching, numbered


@pytest.fixture(scope="module", params=cases("metrics"))
def recorded(request):
    return request.param


def test_frechet_equals_recorded(recorded):
    assert frechet.frechet(recorded["frechet/a"], recorded["frechet/b"]) == pytest.approx(
        float(recorded["frechet/eigh"]), rel=1e-10)
    assert frechet.frechet(recorded["frechet/b"], recorded["frechet/a"]) == pytest.approx(
        float(recorded["frechet/sqrtm"]), rel=1e-10)


def test_frechet_with_fewer_frames_than_dimensions(recorded):
    ours = frechet.frechet(recorded["frechet_singular/a"], recorded["frechet_singular/b"])
    assert ours == pytest.approx(float(recorded["frechet_singular/exact"]), rel=1e-7)
    rescue = float(recorded["frechet_singular/sqrtm_eps1e-6"])
    # where the usual one is measurably wrong
    if abs(float(recorded["frechet_singular/exact"]) - rescue) > 2e-4:
        assert abs(ours - rescue) > 1e-4


def test_frechet_per_clip_and_pooled(recorded):
    pose = recorded["listener/sid_pose_centroids"].shape[1]
    clips = [(p[:, :pose], t[:, :pose]) for p, t in zip(numbered(recorded, "listener/pred_"),
                                                        numbered(recorded, "listener/gt_"),
                                                        strict=True)]
    each = [frechet.frechet(p, t) for p, t in clips]
    np.testing.assert_allclose(each, recorded["listener/fd_pose_per_clip"], rtol=1e-6)
    assert np.mean(each) == pytest.approx(float(recorded["listener/result/fid_pose"][0]), rel=1e-6)
    together = (np.concatenate(x) for x in zip(*clips, strict=True))
    assert frechet.frechet(*together) == pytest.approx(float(recorded["listener/pooled_fd_pose"]),
                                                       rel=1e-6)


def test_frechet_kinetic_sees_only_motion():
    walk = np.cumsum(np.random.default_rng(0).normal(size=(50, 3)), axis=0)
    assert frechet.frechet_kinetic(walk, walk + 7) == pytest.approx(0, abs=1e-9)
    assert frechet.frechet(walk, walk + 7) == pytest.approx(147)
    assert frechet.frechet_kinetic(walk, walk[::2]) > 0.1


def test_onsets_equal_librosa(recorded):
    for rate in matching(recorded, r"(onset\d+)/wav_int16"):
        wave, hertz = recorded[f"{rate}/wav_int16"] / 32767, int(recorded[f"{rate}/sampling_rate"])
        np.testing.assert_allclose(onsets.strength(wave, hertz),
                                   recorded[f"{rate}/strength_envelope"], atol=1e-3)
        np.testing.assert_allclose(onsets.onset_times(wave, hertz), recorded[f"{rate}/onset_times"],
                                   atol=1e-9)


def test_no_onsets_in_silence():
    assert len(onsets.onset_times(np.zeros(22050), 22050)) == 0


def test_beats_by_hand(recorded):
    r = {k: recorded[f"beat_hand/{k}"] for k in ("audio_beats", "motion_beats", "sigma")}
    forth = beats.consistency(r["audio_beats"], r["motion_beats"], float(r["sigma"]))
    back = beats.consistency(r["motion_beats"], r["audio_beats"], float(r["sigma"]))
    assert forth == pytest.approx(float(recorded["beat_hand/score_over_audio"]))
    assert back == pytest.approx(float(recorded["beat_hand/score_over_motion"]))


def test_beat_consistency_equals_said(recorded):
    clips = numbered(recorded, "beat_face/coefficients_")
    wave, hertz = recorded["onset16/wav_int16"] / 32767, int(recorded["onset16/sampling_rate"])
    waves = [wave] + [np.roll(wave, int(recorded[f"beat_face/wave_{i}_roll_samples"]))
                      for i in range(1, len(clips))]
    heard = [onsets.onset_times(w, hertz) for w in waves]
    for threshold in matching(recorded, r"beat_face/score_threshold([\d.]+)"):
        recipe = beats.RECIPE | {"threshold": float(threshold), "smooth_s": 0.0,
                                 "fps": int(recorded["beat_face/fps"])}
        together = beats.mean_change(clips)
        scores = [beats.score(times, c, together, recipe) for times,
                  c in zip(heard, clips, strict=True)]
        assert np.mean(scores) == pytest.approx(
            float(recorded[f"beat_face/score_threshold{threshold}"]), rel=1e-6)
        # another normaliser gives other values
        if f"beat_face/score_threshold{threshold}_each_alone" in recorded:
            alone = [beats.score(times, c, beats.mean_change([c]), recipe) for times,
                     c in zip(heard, clips, strict=True)]
            np.testing.assert_allclose(alone,
                                       recorded[f"beat_face/score_threshold{threshold}_each_alone"],
                                       rtol=1e-6)


def test_beats_in_either_direction():
    """One motion beat, at half a second; the other onset has no beat of its own."""
    motion = np.abs(np.arange(30) - 15.5)[:, None] ** 2
    recipe = beats.RECIPE | {"threshold": 0.0, "smooth_s": 0.0}
    forth, back = (beats.score([0.5, 9.0], motion, np.ones(1), recipe | {"direction": d})
                   for d in beats.DIRECTIONS)
    assert forth == pytest.approx(0.5) and back == pytest.approx(1.0)
    with pytest.raises(UserError, match="no such direction.*audio to motion or motion to "
                                        "audio.*'both'"):
        beats.score([0.5], motion, np.ones(1), recipe | {"direction": "both"})


def test_no_beats_is_nan_not_zero():
    assert np.isnan(beats.consistency([], [1.0],
                                      0.1)) and np.isnan(beats.consistency([1.0], [], 0.1))
    still = np.zeros((60, 4))
    assert np.isnan(beats.score([0.5], still, np.ones(4)))


def test_mcd_equals_the_package(recorded):
    a, b = recorded["mcd/wav_a_int16"], recorded["mcd/wav_b_int16"]
    rate = int(recorded["mcd/sampling_rate"])
    expected = float(recorded["mcd/mel_cepstral_distance_default"][0])
    assert speech.mcd_dtw(a, b, rate) == pytest.approx(expected, rel=1e-6)
    assert speech.mcd_dtw(a / 32767, b / 32767, rate) == pytest.approx(expected, rel=1e-3)
    assert speech.mcd_dtw(a, a, rate) == 0
    assert np.isnan(speech.mcd_dtw(a, np.zeros(22050), rate))


def test_wer_equals_jiwer(recorded):
    pairs = list(zip(recorded["wer/reference"].tolist(), recorded["wer/hypothesis"].tolist(),
                     strict=True))
    counts = [intelligibility.word_errors(r, h) for r, h in pairs]
    columns = ("substitutions", "deletions", "insertions", "hits")
    np.testing.assert_array_equal([[c[k] for k in columns] for c in counts],
                                  recorded["wer/counts_SDIH"])
    pooled = intelligibility.wer(np.array([[c[k] for k in columns] for c in counts]))
    assert pooled == pytest.approx(float(recorded["wer/pooled"]))


def test_lips_pooled_by_hand():
    aperture = np.array([0.0, 0.01, 0.5, 0.03, 0.0])
    truth = np.array([0.0, 0.30, 0.5, 0.01, 0.0])
    np.testing.assert_array_equal(lips.closure_counts(aperture, truth, 1.0, 0.02), [2, 1, 1])
    assert lips.f1([2, 1, 1]) == pytest.approx(2 / 3)
    assert lips.f1([0, 3, 0]) == 0 and np.isnan(lips.f1([0, 0, 0]))
    # closing a mouth of half the width needs half the distance
    np.testing.assert_array_equal(lips.closure_counts(aperture, truth, 0.4, 0.02), [2, 0, 0])


def spoken(seconds=4.0, rate=16000, fps=30.0):
    """(sound of bursts, aperture of a mouth that opens for each of them)."""
    rng, count = np.random.default_rng(3), int(seconds * fps / 3)
    opened = np.repeat(rng.integers(0, 2, count) * rng.uniform(0.3, 1, count), 3)
    time = np.arange(int(seconds * rate)) / rate
    frame = np.minimum((time * fps + 0.5).astype(int), len(opened) - 1)
    return 0.5 * opened[frame] * np.sin(2 * np.pi * 220 * time), opened


@pytest.mark.parametrize("late", [0, 1, -1, 4, -7, 12])
def test_a_mouth_that_is_late_is_told_by_how_many_frames(late):
    sound, aperture = spoken()
    moved = aperture[np.clip(np.arange(len(aperture)) - late, 0, len(aperture) - 1)]
    moved[2] = np.nan  # a frame in which no mouth was seen
    loudness = onsets.loudness(sound, 16000, 30.0)
    assert loudness.max() == 0 and loudness.min() == -onsets.FLOOR
    lag, correlation = lips.sync(moved, 2.0, loudness, 30.0)
    assert lag == late and (correlation > 0.78) == (late == 0)
    # neither how loud it is nor how wide it opens matters
    assert lips.sync(0.3 * moved + 0.1, 2.0, onsets.loudness(0.01 * sound, 16000, 30.0),
                     30.0) == (late, pytest.approx(correlation, abs=1e-6))


def test_no_sync_of_silence_of_a_still_mouth_or_of_a_moment():
    sound, aperture = spoken()
    loudness = onsets.loudness(sound, 16000, 30.0)
    noise = 1e-4 * np.random.default_rng(0).normal(size=len(aperture))
    for mouth, heard in ((aperture, onsets.loudness(1e-5 * sound, 16000, 30.0)),
                         (aperture, onsets.loudness(sound[:0], 16000, 30.0)),
                         (0.5 + noise, loudness), (aperture[:30], loudness[:30]),
                         (aperture[:0], loudness), (aperture + np.nan, loudness)):
        assert np.isnan(lips.sync(mouth, 2.0, heard, 30.0)).all()


def test_diversity_by_hand():
    frames = np.array([[0.0, 1.0], [2.0, 1.0]])
    assert diversity.div(frames) == pytest.approx(np.sqrt(2) / 2)
    assert diversity.var_g(frames, 20_000) == pytest.approx(1.0, abs=0.05)


def test_vocabulary_without_pronunciation_is_listed():
    recogniser = intelligibility.Recogniser(["hello", "xqzzk"])
    assert recogniser.unknown == ["xqzzk"]
    noise = np.random.default_rng(0).normal(size=22050) * 0.1
    assert recogniser.transcribe(noise, 22050) == recogniser.transcribe(noise, 22050)
    assert recogniser.transcribe(np.zeros(22050), 22050) == ""


def test_dtw_is_the_optimum(recorded):
    """Against the recorded optimal cost on coefficients 1..13, and a path checked by hand."""
    a, b = recorded["mcd/mcep_a"][:, 1:], recorded["mcd/mcep_b"][:, 1:]
    cost = np.linalg.norm(a[:, None] - b[None], axis=-1)
    path = speech.dtw(cost)
    assert cost[path[:, 0],
                path[:, 1]].sum() == pytest.approx(float(recorded["mcd/dtw_cost_exact_c1"]),
                                                   rel=1e-9)
    np.testing.assert_array_equal(speech.dtw(np.abs(np.subtract.outer([0, 0, 2], [0, 2, 2]))),
                                  [[0, 0], [1, 0], [2, 1], [2, 2]])


def test_matching_frames_undo_a_known_pace():
    """b is a at 1.25 times its duration: the frame that belongs to time t of b is the one at 0.8 t
    of a."""
    a = np.cumsum(np.random.default_rng(0).normal(size=(200, 12)), axis=0)
    b = np.stack([np.interp((np.arange(250) + 0.5) / 1.25 - 0.5, np.arange(200), column)
                  for column in a.T], 1)
    path = alignment.align(a, b)
    index = alignment.matching_frames(path, 2.0, 2.5, 30, 60, 75)
    assert np.abs(index - np.arange(75) / 1.25).max() <= 1.5
    np.testing.assert_array_equal(alignment.matching_frames(alignment.align(a, a), 2.0, 2.0, 30, 60,
                                                            60), np.arange(60))
    assert alignment.aligned_l1(a, a, alignment.align(a, a)) == 0
    assert alignment.aligned_l1(a, b, path) < 0.2 * speech.mel_l1(a, b[:200])
