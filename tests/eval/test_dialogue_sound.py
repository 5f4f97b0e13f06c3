"""What is heard and seen of each speaker of a dialogue, scored by what scores clips."""

import types

import numpy as np
import pytest

from avjax.inference.generator import Generator
from avjax.signal import mel
from data_pipelines.store import dataset as store
from data_pipelines.store.schema import Feature
from eval.benchmarks import dialogue
from eval.benchmarks.common import speakers
from eval.data.conversations import Conversation
from eval.networks.files import TABLE
from eval.networks.speech import wav2vec2_ctc, whisper
from tests.eval import test_dialogue_benchmark as toy
from tests.eval import toys

SAID = ("hello there", "yes good")


class Decoder(toy.ToyDecoder):
    """Sound as loud as the mel; pictures as bright as the first number of the latents."""

    fps = 25

    def waveform(self, streams):
        loud_N = np.repeat(np.exp(mel.denormalise(streams["mel"]).mean(1) / 2), 256)
        return (0.3 * loud_N * np.sin(np.arange(len(loud_N)) * 0.2)).astype(np.float32)

    def pictures(self, streams, *, speaker="", identity=None):
        shade = np.abs(streams["latents"][:, 0, 0, 0]) * 99
        return len(shade), iter(np.broadcast_to(
            shade.astype(np.uint8)[:, None, None, None], (len(shade), 8, 8, 3)))


class Networks:
    """All of them, found and quick."""

    def found(self, names):
        return True

    def lacking(self, names):
        return []

    def recipe(self, names):
        return {"networks": sorted(names)} if names else {}

    def __getitem__(self, name):
        assert name in TABLE
        return getattr(self, name)

    @staticmethod
    def utmos(waves, rate):
        return [float(np.abs(w).max()) if w.any() else None for w in waves]

    @staticmethod
    def wavlm_ecapa(waves, rate):
        return [None if not w.any() else np.array([1.0, 0.0]) for w in waves]

    ge2e = wavlm_ecapa

    @staticmethod
    def dnsmos(wave_N, rate):
        return dict.fromkeys(("SIG", "BAK", "OVRL"), 3.0) if wave_N.any() else None

    @staticmethod
    def dnsmos_p808(wave_N, rate):
        return 3.0 if wave_N.any() else None

    @staticmethod
    def voxsim(one_N, other_N, rate):
        return 6.0 if one_N.any() and other_N.any() else None

    @staticmethod
    def inception(pictures):
        return np.stack([p.reshape(-1)[:3].astype(np.float32) for p in pictures])

    @staticmethod
    def i3d(pictures):
        return np.ones((2, 2, 4), np.float32) * len(list(pictures))

    @staticmethod
    def syncnet(pictures, count, audio_N):
        return {"LSE_C": float(len(list(pictures))), "LSE_D": 1.0, "LSE_offset": 0.0}

    class wav2vec2_ctc:  # noqa: N801
        def __new__(cls, wave_N, rate):
            return SAID[0]

        @staticmethod
        def normalised(text):
            return text.lower()

    whisper = wav2vec2_ctc


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    rng, words = np.random.default_rng(0), Feature((), "str", "")
    rows = [toy.example(rng, i) | {"speakers": '["Ada", "Ben"]',
                                   "text": f"Ada: {SAID[0]} [Ben: yes]\nBen: good"}
            for i in range(4)]
    features = {"id": words, "text": words, "speakers": words,
                "mel": Feature((None, 2, 80), "float32", "", "", mel.FRAME_RATE),
                "motion": Feature((None, 2, toy.WIDTH), "float32", "", "", 25.0),
                "latents": Feature((None, 2, toy.WIDTH, 1, 1), "float32", "", "", 25.0),
                "voices": Feature((2, 4), "float32", "")}
    return store.write_dataset(tmp_path_factory.mktemp("d") / "data", name="toy", description="",
                               features=features, progress=False,
                               splits={"train": rows[:2], "valid": rows[2:]},
                               recipes={"mel": {"kind": "log-mel"}})


def benchmark(dataset, networks=False, heard=SAID[0]):
    out = dialogue.Benchmark(toy.config(), Decoder(), dataset, toy.ToySystem())
    out.recogniser = types.SimpleNamespace(transcribe=lambda wave, rate: heard)
    if networks:
        out.networks = Networks()
    return out


def test_each_speaker_is_heard_alone(dataset):
    bench = benchmark(dataset)
    assert bench.said("valid") == [(["Ada"] * 2, ["hello there"] * 2),
                                   (["Ben"] * 2, ["yes good"] * 2)]
    assert bench.vocabulary == ("good", "hello", "there", "yes")
    truth = bench.truth("valid", 0)
    row = bench.score("valid", 0, truth)
    # Ada's two words are right, of Ben's both are wrong
    assert row["WER"] == {"substitutions": 2, "deletions": 0, "insertions": 0, "hits": 2}
    assert row["heard"] == "hello there / hello there" and row["MCD"] == pytest.approx(0, abs=1e-6)
    assert bench.recipes["MCD"]["speakers"] == speakers.RECIPE["speakers"]
    other = bench.baseline("shuffled", "valid", 0)
    assert len(other.channels[0]) == 256 * len(other.mel_STB[0])
    np.testing.assert_array_equal(other.channels[1][:9999],
                                  bench.truth("valid", 1).channels[1][:9999])
    assert bench.score("valid", 0, other)["MCD"] > 0.1
    mean = bench.score("valid", 0, bench.baseline("mean", "valid", 0))
    assert mean["WER"]["hits"] == 2 and mean["MCD"] > 0


def test_what_has_its_own_timing_or_is_long_is_not_warped(dataset, monkeypatch):
    bench = benchmark(dataset)
    truth = bench.truth("valid", 0)
    streams = {k: truth.streams[k] for k in ("mel", "latents")}
    free = Conversation(bench.decoder, streams, truth.scored, own_timing=True, **bench._read_by)
    row = bench.score("valid", 0, free)
    assert "MCD" not in row and row["WER"]["hits"] == 2
    monkeypatch.setattr(dialogue, "MOST_WARPED", 1.0)
    assert "MCD" not in bench.score("valid", 0, truth)


def test_networks_judge_each_speaker(dataset, tmp_path, monkeypatch):
    for recogniser in (wav2vec2_ctc, whisper):
        monkeypatch.setattr(recogniser, "recipe", dict)
    (tmp_path / "whisper_normalizer").mkdir()  # is asked for by name alone
    monkeypatch.syspath_prepend(tmp_path)
    bench = benchmark(dataset, networks=True)
    system = toy.ToySystem()
    results = toys.evaluate(bench, Generator(system, batch_size=2, seed=0), {"w": np.zeros(1)},
                            tmp_path, splits=("valid",), progress=False)
    avatar, truth = (results["summary"]["valid"][v] for v in ("avatar", "truth"))
    assert abs(truth["FID"]["value"]) < 1e-6 < avatar["FID"]["value"]
    assert results["summary"]["valid"]["codec"]["FID"]["n"] == 2
    assert avatar["LSE_C"]["value"] == 100  # of 100 pictures of each
    assert avatar["WER_open"]["value"] == pytest.approx(0.5)  # words of one of two are right
    row = results["rows"][0]
    own, = np.unique(row["truth"]["UTMOS"])
    both = [Networks.utmos([x], 0)[0] for x in bench.truth("valid", 0).channels]
    assert own == pytest.approx(np.mean(both)) or row["id"] != bench.source("valid").ids[0]
    assert row["truth"]["SIM"] is None  # no recording is at hand
    assert "LSE_C" not in row["shuffled"] and "UTMOS" in row["speech"] | row["avatar"]
    shown = bench.kept("valid", 0, bench.truth("valid", 0))
    assert len(shown["inception"]) == 2 * 100  # both speakers' pictures


def test_in_the_loop_nothing_is_heard_or_seen(dataset):
    bench = dialogue.Benchmark(toy.config(), Decoder(), dataset, toy.ToySystem(), full=False)
    assert not any(map(speakers.of_one, bench.metrics))


def test_who_says_what():
    """Also where one is silent, speaks first though the second channel's, or nobody is known."""
    text = "Ben: Hi [Ada: oh] you.\nAda+: Well.\nBen: Bye."
    assert dialogue._turns(text, ["Ada", "Ben", "Cy"]) == ["oh Well.", "Hi you. Bye.", ""]
    assert dialogue._turns(text, ["x", "y"]) == ["", ""] and dialogue._turns("?", ["x"]) == [""]


def test_together():
    assert speakers._together([None, 2.0, float("nan")]) == 2
    assert np.isnan(speakers._together([float("nan")])) and speakers._together([None]) is None
    assert speakers._together(["a", "b"]) == "a / b"
