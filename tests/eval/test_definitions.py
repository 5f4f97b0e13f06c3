"""Definitions that other works publish, against recorded values of their implementations."""

import numpy as np
import pytest

from eval.metrics import beats, onsets
from eval.metrics.published import beats as published_beats
from eval.metrics.published import world_cepstra
from tests.eval import toys
from tests.golden_files import cases, matching, numbered


@pytest.fixture(scope="module", params=cases("metrics"))
def recorded(request):
    return request.param


def test_bailandos_beats(recorded):
    points, fps = recorded["beat_frame/keypoints"], 60
    smooth = beats.smooth(published_beats.speed(points), published_beats.BAILANDO["smooth_s"] * fps)
    np.testing.assert_allclose(smooth, recorded["beat_frame/velocity_smoothed"], rtol=1e-6)
    found = beats.motion_beats(smooth, fps, 0.0) * fps
    np.testing.assert_allclose(found, recorded["beat_frame/motion_beats"], atol=1e-9)
    score = published_beats.bailando(recorded["beat_frame/music_beats"] / fps, points, fps)
    assert score == pytest.approx(float(recorded["beat_frame/score"]), rel=1e-6)


def test_saids_beats_depend_on_the_company(recorded):
    clips, fps = numbered(recorded, "beat_face/coefficients_"), int(recorded["beat_face/fps"])
    wave, rate = recorded["onset16/wav_int16"] / 32767, int(recorded["onset16/sampling_rate"])
    rolls = [0] + [int(recorded[f"beat_face/wave_{i}_roll_samples"]) for i in range(1, len(clips))]
    heard = [onsets.onset_times(np.roll(wave, n), rate) for n in rolls]
    for text in matching(recorded, r"beat_face/score_threshold([\d.]+)"):
        together = published_beats.said(heard, clips, fps, float(text))
        assert together.mean() == pytest.approx(
            float(recorded[f"beat_face/score_threshold{text}"]), rel=1e-6)
        if f"beat_face/score_threshold{text}_each_alone" in recorded:
            alone = [published_beats.said([h], [c], fps, float(text))[0]
                     for h, c in zip(heard, clips, strict=True)]
            np.testing.assert_allclose(
                alone, recorded[f"beat_face/score_threshold{text}_each_alone"], rtol=1e-6)
    still, short = np.zeros((60, clips[0].shape[1])), clips[0][:1]
    assert np.isnan(published_beats.said([heard[0]] * 2, [still, short], fps)).all()
    assert np.isnan(published_beats.bailando(heard[0], still[:, None], fps))


def test_distortion_of_recorded_cepstra(recorded):
    a, b = recorded["mcd/mcep_a"], recorded["mcd/mcep_b"]
    for pairing in ("dtw", "dtw_sl"):
        assert world_cepstra.distortion(a, b, pairing) == pytest.approx(
            float(recorded[f"mcd/pymcd_{pairing}"]), rel=1e-9)
    plain = [recorded[f"mcd/mcep_{x}_plain"] for x in "ab"]
    assert world_cepstra.distortion(*plain, "plain") == pytest.approx(
        float(recorded["mcd/pymcd_plain"]), rel=1e-9)


def test_mel_cepstra_of_a_spectrum_that_they_make():
    """log amplitude = sum of c[m] cos(m w'), w' the bent frequency."""
    c = np.random.default_rng(0).normal(size=(3, world_cepstra.ORDER + 1)) / 4
    w = np.linspace(0, np.pi, world_cepstra.POINTS // 2 + 1)
    bent = w + 2 * np.arctan2(world_cepstra.WARP * np.sin(w), 1 - world_cepstra.WARP * np.cos(w))
    spectrum = np.exp(c @ np.cos(np.arange(world_cepstra.ORDER + 1)[:, None] * bent))
    np.testing.assert_allclose(world_cepstra.cepstra(spectrum), c, atol=1e-6)


def test_distortion_of_recorded_waveforms(recorded):
    pytest.importorskip("pyworld")
    a, b = recorded["mcd/wav_a_int16"], recorded["mcd/wav_b_int16"]
    rate = int(recorded["mcd/sampling_rate"])
    found = world_cepstra.cepstra(world_cepstra.envelope(a, rate))
    np.testing.assert_allclose(found, recorded["mcd/mcep_a"], atol=2e-4)
    for pairing, value in world_cepstra.mcd(a, b, rate).items():
        assert value == pytest.approx(float(recorded[f"mcd/pymcd_{pairing}"]), rel=1e-5)
    assert world_cepstra.mcd(a, a / 32768, rate)["dtw"] == pytest.approx(0, abs=1e-9)


def test_without_sound_there_is_no_distortion():
    for other in (np.zeros(22050), np.ones(100)):
        assert np.isnan(list(world_cepstra.mcd(np.ones(22050), other, 22050).values())).all()


def test_without_the_package_distortion_is_not_measured(tmp_path, monkeypatch):
    monkeypatch.setattr("eval.packages.importlib.util.find_spec", lambda name: None)
    benchmark = toys.benchmark(toys.write_corpus(tmp_path / "corpus"))
    needed = benchmark.without_network["MCD_world"]
    assert needed == "needs pyworld (pip install 'avjax[world]')"
    assert "MCD_world" not in benchmark.recipes
    assert not toys.benchmark(benchmark.dataset, full=False).without_network
