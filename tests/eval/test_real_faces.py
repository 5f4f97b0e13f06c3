"""Lips, smiles and blinks of people whose clips have landmarks, read from the pictures."""

import numpy as np
import pytest

from data_pipelines.media import landmarks
from eval.benchmarks import clips, dialogue
from eval.data import pictured
from eval.metrics import reactions
from eval.report import plots
from tests.eval import real_faces, toys
from tests.eval import test_dialogue_benchmark as dialogues


@pytest.fixture(scope="module")
def patch():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory, patch):
    return real_faces.benchmark(tmp_path_factory.mktemp("faces"), patch)


def summary(benchmark, signals, index=0):
    return benchmark.summarise([benchmark.score("valid", index, signals)],
                               [benchmark.frames("valid", index, signals)])


def test_lips_and_smiles_of_what_was_said_are_those_of_the_truth(benchmark):
    truth, other = (benchmark.baseline(v, "valid", 0) for v in ("truth", "shuffled"))
    good, bad = summary(benchmark, truth), summary(benchmark, other)
    assert good["F1_lips"]["value"] == 1 and good["smile_corr"]["value"] == pytest.approx(1)
    assert good["F1_lips_clip"]["value"] > 0.95  # the clip's own points, through no picture
    assert bad["F1_lips"]["value"] < 0.8 and bad["smile_corr"]["value"] < 0.8
    assert benchmark.recipes["F1_lips"]["tau"] == 0.05
    assert benchmark.recipes["F1_lips"]["of"] == landmarks.recipe("dlib68")
    assert benchmark.not_measured == {}


def test_a_variant_whose_pictures_show_no_face_has_no_lips(benchmark, monkeypatch):
    signals = benchmark.read(benchmark.source("valid")[0])
    monkeypatch.setattr(benchmark.decoder, "pictures", lambda streams, speaker="": (
        2, iter(np.zeros((2, 128, 128, 3), np.uint8))))
    row = benchmark.score("valid", 0, signals)
    assert "lips" not in row and "smile_corr" not in row and "frames" in row
    truth = benchmark.truth("valid", 0)
    for seen, drawn in (({}, "face code 0"), ({"other": truth}, "lip aperture")):
        (name, curves, _), *_ = plots.curve_pairs(benchmark, {"avatar": signals} | seen, truth)[0]
        assert name == drawn and curves.keys() == (seen or {"avatar": 0}).keys()


def test_what_is_not_measured_says_what_it_needs(benchmark, monkeypatch):
    args = toys.config(), toys.Decoder(), benchmark.dataset, toys.System()
    without = clips.Benchmark(*args)
    assert "avjax prepare --landmarks" in without.not_measured[pictured.NAMES]
    assert not {"lips", "points"} & without.offers
    monkeypatch.setattr(landmarks, "lacking", lambda kind: "pip install it")
    lacking = clips.Benchmark(*args, clips=benchmark.clips)
    assert lacking.not_measured == {pictured.NAMES: "pip install it"}
    assert lacking.clip_lips("valid", 0) is None
    in_loop = clips.Benchmark(*args, clips=benchmark.clips, full=False)
    assert in_loop.reader is None and in_loop.not_measured == {}


def test_points_of_another_kind_are_no_reference(benchmark):
    assert benchmark.reader.given(np.zeros((30, 468, 2)), 30) is None


def test_blinks_are_dips_of_two_frames():
    eyes = np.full(90, 0.3)
    eyes[10] = eyes[20:23] = eyes[88:] = 0.1
    assert reactions.blinks(eyes) == 2


class Dialogues(dialogues.ToyDecoder):
    """Pictures as bright as the first number of a latent."""

    face_kind, fps = "eigenface", 25

    def codec(self, name):
        return {}

    def pictures(self, streams, speaker=""):
        shade = (128 + 60 * streams["latents"][:, 0, 0, 0]).clip(0, 255).astype(np.uint8)
        return len(shade), (np.full((32, 32, 3), x, np.uint8) for x in shade)


def test_dialogues_are_read_off_the_pictures_of_every_speaker(tmp_path, patch, benchmark):
    scored = dialogue.Benchmark(dialogues.config(), Dialogues(), dialogues.write(tmp_path / "d"),
                                dialogues.ToySystem(), clips=benchmark.clips)
    assert scored.not_measured == {} and {"lips", "points"} <= scored.offers
    assert scored.recipes["F1_lips"]["of"] == landmarks.recipe(real_faces.KIND)
    truth, shuffled = (scored.baseline(v, "valid", 0) for v in ("truth", "shuffled"))
    swapped = {"latents": truth.streams["latents"][:, ::-1], "mel": truth.streams["mel"]}
    codec, wrong = (summary(scored, x) for x in (
        scored.baseline("codec", "valid", 0), scored.model(swapped, "avatar", "valid", 0)))
    assert codec["F1_lips"]["value"] == 1 and codec["smile_corr"]["value"] == pytest.approx(1)
    # every speaker is compared with its own truth, which its partner's is like
    assert wrong["F1_lips"]["value"] < 0.97 and wrong["smile_corr"]["value"] < 0.99
    assert len(truth.expressions) == dialogues.SPEAKERS and "blinks_per_minute" in codec
    assert shuffled.expressions == [] and "lips" not in scored.score("valid", 0, shuffled)
    names = [rows[0][0] for rows, _ in (plots.curve_pairs(scored, {"other": x}, truth)
                                        for x in (shuffled, truth))]
    assert names == ["face code 0", "lip aperture"]
