"""Mouths of a dialogue beside sound: each speaker's beside that speaker's own channel."""

import numpy as np
import pytest

from avjax.inference.generator import Generator
from avjax.signal import mel
from avjax.systems import api
from avjax.systems.api import Spec
from data_pipelines.puppets import face_code
from eval.benchmarks import dialogue
from eval.data.conversations import POSE
from eval.sweep import collect, members
from tests.eval import toys
from tests.eval.test_dialogue_sound import Decoder
from tests.eval.toy_dialogues import CODE, FRAMES, SPEAKERS, WIDTH, config, example, write_rows

LATE = (0, 3)  # frames of 25 Hz by which the mouth of each speaker is late
OPEN = face_code.INDEX["lip_aperture"]


def speaking(rng, number):
    """An example in which both speak at once, each louder and softer in an own way, and open their
    mouths with it."""
    row = example(rng, number)
    frames_mel = len(row["mel"])
    nearest = np.round((np.arange(frames_mel) + 0.5) / mel.FRAME_RATE * 25).astype(int)
    at = np.minimum(nearest, FRAMES - 1)
    # of every speaker at 25 Hz, 0 to 1, smooth
    curves = np.stack([np.convolve(rng.random(FRAMES + 8), np.ones(9) / 9, "valid")
                       for _ in range(SPEAKERS)], 1)
    curves = (curves - curves.min(0)) / np.ptp(curves, 0)
    row["mel"] = mel.normalise(np.repeat((8 * curves - 8)[at][..., None], 80, 2)).astype(
        np.float32)
    codec = Decoder().codec("face")
    motion = np.zeros((FRAMES, SPEAKERS, WIDTH), np.float32)
    for speaker, late in enumerate(LATE):
        articulators = np.zeros((FRAMES, CODE))
        articulators[:, OPEN] = np.roll(curves[:, speaker], late)
        motion[:, speaker, :-POSE] = face_code.encode(articulators, codec)
    return row | {"motion": motion, "latents": motion[..., None, None]}


class Mapper(api.System):
    """Motion alone, of a dialogue's own sound; `late` frames late, or still."""

    tasks, makes = ("generate",), {"generate": ("motion",)}

    def __init__(self, late=0):
        self.config, self.late = None, late
        motion = Spec(("batch", "time", SPEAKERS, WIDTH), "float32", "motion")
        self.example_spec = {"motion": motion}
        self.conditions_spec = self.example_spec | {"lengths": Spec(("batch",), "int32", "frames")}
        self.streams_spec = {"motion": motion}

    def conditions(self, example, task):
        return {"motion": example["motion"], "lengths": len(example["motion"])}, 0

    def generate(self, params, conditions, keys, task):
        import jax.numpy as jnp
        return {"motion": jnp.roll(conditions["motion"], self.late, 1),
                "motion_length": conditions["lengths"]}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    rng = np.random.default_rng(0)
    return write_rows(tmp_path_factory.mktemp("d") / "data", {
        split: [speaking(rng, f"{split}{i}") for i in range(3)] for split in ("train", "valid")})


def results(dataset, folder, late=0):
    system = Mapper(late)
    benchmark = dialogue.Benchmark(config(), Decoder(), dataset, system)
    return benchmark, toys.evaluate(benchmark, Generator(system, batch_size=2, seed=0), {}, folder,
                                    splits=("valid",), progress=False)


def test_each_mouth_is_held_against_the_speakers_own_channel(dataset, tmp_path):
    """Ada's mouth is in time, Ben's three frames (120 ms) late; a system that makes no sound is
    heard with the truth's."""
    benchmark, found = results(dataset, tmp_path)
    summary = found["summary"]["valid"]
    for variant in ("model", "truth"):
        assert summary[variant]["AV_offset"]["value"] == pytest.approx(60), variant
        assert summary[variant]["AV_within_1"]["value"] == pytest.approx(0.5), variant
    assert summary["truth"]["AV_offset"]["n"] == 3 and found["recipes"]["AV_offset"]["fps"] == 25
    assert found["recipes"]["AV_offset"]["speakers"].startswith("each alone")
    # another dialogue's faces beside this one's sound, a face that stands still
    truth, other = (benchmark.baseline(v, "valid", 0) for v in ("truth", "shuffled"))
    np.testing.assert_array_equal(other.alone[1].loudness, truth.alone[1].loudness)
    assert np.ptp(other.alone[0].waveform - truth.alone[0].waveform) > 0.01
    assert summary["shuffled"]["AV_correlation"]["value"] < 0.7 < summary["truth"][
        "AV_correlation"]["value"]
    assert summary["mean"]["AV_offset"]["n"] == 0
    # words and voices of a system that makes no sound are nobody's
    assert "WER" not in summary["truth"] and "MCD" not in summary["truth"]


def test_in_the_loop_no_sound_is_made(dataset):
    benchmark = dialogue.Benchmark(config(), Decoder(), dataset, Mapper(), full=False)
    streams = {"motion": benchmark.truth("valid", 0).streams["motion"]}
    signals = benchmark.model(streams, "model", "valid", 0)
    assert "mel" not in signals.streams
    assert not any(m.name.startswith("AV_") for m in benchmark.metrics)


def test_a_sweep_has_them_in_its_table(dataset, tmp_path):
    for late in (0, 2):
        _, found = results(dataset, tmp_path / f"late={late}_seed=0", late)
    runs = members.find([str(tmp_path / f"late={late}_seed=0") for late in (0, 2)])
    table = collect.collect(runs, metrics=("AV_offset", "AV_within_1"))
    rows = {m["metric"]: {name: row["mean"] for name, row in m["rows"].items()}
            for m in table["blocks"][0]["metrics"]}
    assert sorted(rows["AV_offset"].values()) == pytest.approx([60, 140])
    assert sorted(rows["AV_within_1"].values()) == pytest.approx([0, 0.5])
