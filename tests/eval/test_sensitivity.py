"""The truth made worse by known amounts, and what is said of metrics that see it."""

import json

import numpy as np
import pytest

from avjax.errors import UserError
from eval import registry
from eval.benchmarks.common import base
from eval.sensitivity import alterations, job, verdicts
from tests.eval import toys

METRICS = {m.name: m for m in registry.all_metrics()}


@pytest.mark.parametrize(("metric", "values", "expected"), [
    ("FD_e", [1.0, 2.0, 3.0], "worse"), ("F1_lips", [0.9, 0.5, 0.5], "worse"),
    ("FD_e", [-1.0, -2.0, -2.0], "better"), ("F1_lips", [1.0, 1.0, 1.0], "flat"),
    ("BC_e", [0.5, 2.0, 3.0], "worse"), ("BC_e", [2.0, 0.5, 1.0], "mixed -0.11"),
    ("LSE_offset", [-1.0, 2.0, -3.0], "worse"), ("FD_e", [1.0, None, 2.0], "-"),
    ("FD_e", [1.0, float("nan"), 2.0], "-")])
def test_verdicts_follow_the_direction_of_the_metric(metric, values, expected):
    truth = {"up": 1.0, "truth": 1.0}.get(METRICS[metric].better, 0.0)
    assert verdicts.verdict(METRICS[metric], truth, values) == expected


def test_alterations_of_motion_by_hand():
    x, other = np.arange(8.0)[:, None], -np.ones((8, 1))
    assert alterations.late(x, 60.0, 1, None, other)[:, 0].tolist() == [0, 0, 0, 1, 2, 3, 4, 5]
    assert alterations.late(x, 60.0, 16, None, other).tolist() == [[0.0]] * 8
    assert alterations.frozen(x, 60.0, 0.5, None, other)[:, 0].tolist() == [0, 1, 2, 3, 3, 3, 3, 3]
    assert alterations.frozen(x, 60.0, 1.0, None, other).tolist() == [[0.0]] * 8
    assert alterations.replaced(x, 60.0, 0.25, None, other)[:3, 0].tolist() == [-1, -1, 2]
    noise = alterations.shaken(np.tile(x, (500, 1)), 60.0, 0.5, np.random.default_rng(0), other)
    assert (noise - np.tile(x, (500, 1))).std() == pytest.approx(0.5 * x.std(), rel=0.05)


def test_alterations_of_sound():
    wave = np.cumsum(np.random.default_rng(0).standard_normal(22050))
    wave = 0.001 * (wave - np.convolve(wave, np.ones(200) / 200, "same"))
    lost = [np.mean((alterations.coded(wave, 22050, saved, None, None) - wave) ** 2)
            for saved in (0, 56)]
    assert lost[0] < 0.2 * lost[1] < 0.2 * np.mean(wave ** 2), "it stays where it was"
    for level, ratio in ((0, 1e-4), (40, 1.0)):
        noise = alterations.noisy(wave, 22050, level, np.random.default_rng(0), None) - wave
        assert np.mean(noise ** 2) / np.mean(wave ** 2) == pytest.approx(ratio, rel=0.05)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return toys.write_corpus(tmp_path_factory.mktemp("sensitivity") / "corpus")


def test_distances_grow_with_the_alteration_and_a_job_goes_on(dataset, tmp_path, monkeypatch):
    benchmark = toys.benchmark(dataset, full=False)
    scored = []
    score = base.Benchmark.score

    def counted(self, split, index, signals):
        scored.append(index)
        if len(scored) == 20:
            raise KeyboardInterrupt
        return score(self, split, index, signals)

    monkeypatch.setattr(base.Benchmark, "score", counted)
    with pytest.raises(KeyboardInterrupt):
        job.run(benchmark, tmp_path, ("valid",), max_examples=3, progress=False)
    assert not (tmp_path / "sensitivity.json").exists()
    results = job.run(benchmark, tmp_path, ("valid",), max_examples=3, progress=False)
    motion = [a for a in alterations.ALL if "sound" not in a.name]
    assert len(scored) == 3 * (1 + sum(len(a.levels) for a in motion)) + 1
    curves = results["curves"]["valid"]
    late = curves["motion late"]["F1_lips"]["values"]  # of mouths that open three times a second
    assert 1 > late[0] > late[1] > late[2]
    assert curves["motion late"]["mel_L1"]["verdict"] == "flat"
    for name in ("motion frozen", "another's motion"):
        assert curves[name]["FD_e"]["verdict"] == "worse", name
    assert not curves["sound noise"], "these features have no clips"
    assert json.loads((tmp_path / "sensitivity.json").read_text())["curves"] == results["curves"]
    assert "motion frozen (of the time)" in (tmp_path / "sensitivity.txt").read_text()
    assert (tmp_path / "sensitivity.png").read_bytes().startswith(b"\x89PNG")


def test_sound_is_altered_in_the_recording(dataset, monkeypatch):
    benchmark = toys.benchmark(dataset)
    frames = len(benchmark.truth("valid", 0).streams["mel"])
    wave = 0.1 * np.random.default_rng(0).standard_normal(frames * 256)
    monkeypatch.setattr(benchmark, "clip_audio", lambda split, index: wave * (1 + index))
    noisy = next(a for a in alterations.ALL if a.name == "sound noise")
    made = [noisy.make(benchmark, "valid", 0, level) for level in (0, 40)]
    apart = np.abs(made[0].mel_TM - made[1].mel_TM).mean()
    assert made[0].mel_TM.shape == (frames, 80) and 0.05 < apart < 1
    assert made[0].streams["face"] is benchmark.truth("valid", 0).streams["face"]


def test_texts_cannot_be_altered(tmp_path):
    with pytest.raises(UserError, match="nothing here that can be altered.*text_tokens"):
        job.run(toys.text_benchmark(tmp_path / "text"), tmp_path, ("valid",))
