"""Published networks on dialogues: each speaker's own channel and own pictures, by the recorded
networks with small random weights."""

import importlib.util
import types

import jax
import numpy as np
import pytest

from avjax.inference.generator import Generator
from avjax.sharding import rows
from avjax.signal import mel
from avjax.weights.torch_writer import write_torch_zip
from data_pipelines.store import dataset as store
from data_pipelines.store.columns import PREFIXES
from data_pipelines.store.schema import Feature
from eval.benchmarks import dialogue
from eval.metrics import frechet
from eval.metrics.judged import syncnet
from eval.networks.files import TABLE
from eval.run import runner
from tests import golden_files
from tests.eval import test_dialogue_sound, toys
from tests.eval.test_speech_networks import write
from tests.eval.toy_dialogues import ToySystem, config, example, write_rows

FRAMES = 17  # of pictures: one clip of 16 for I3D, 13 windows for SyncNet
SAID = ("hello there", "yes good")
SPOKEN = {"utmos": "utmos", "wavlm_ecapa": "wavlm_ecapa", "voxsim": "wavlm_ecapa",
          "wav2vec2_ctc": "wav2vec2_ctc"}
PICTURED = {"syncnet": "syncnet", "inception": "inception_fid", "i3d": "i3d"}


class Decoder(test_dialogue_sound.Decoder):
    """Who is louder has a rougher voice."""

    def waveform(self, streams):
        wave_N = super().waveform(streams)
        rough_N = np.random.default_rng(0).normal(size=len(wave_N))
        return np.float32(wave_N * (1 + streams["mel"].mean() * rough_N))


class Visual(ToySystem):
    """Faces alone, of sound that is given."""

    tasks, makes = ("generate",), {"generate": ("latents",)}


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Of the files as they are published."""
    folder = tmp_path_factory.mktemp("networks")
    for name, recording in SPOKEN.items():
        write(golden_files.some(recording), folder / TABLE[name].files[0])
    for name, recording in PICTURED.items():
        state = golden_files.under(golden_files.some(recording), "sd/")
        state = {n: np.array(x) for n, x in state.items()}
        if name == "inception":
            width = len(state["Mixed_7c.branch1x1.bn.bias"])
            state |= {"fc.weight": np.ones((5, width), np.float32),
                      "fc.bias": np.ones(5, np.float32)}
        write_torch_zip(folder / TABLE[name].files[0], state)
    return folder


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Both speak all the time, each at an own level."""
    rng = np.random.default_rng(0)
    sound = np.array([[[0.0], [0.4]]]) + 0.1 * rng.normal(
        size=(4, round(FRAMES / 25 * mel.FRAME_RATE), 2, 80))
    dialogues = [example(rng, i) for i in range(4)]
    for row, mel_TSB in zip(dialogues, sound, strict=True):
        row |= {name: row[name][:FRAMES] for name in ("motion", "latents")}
        row |= {"speakers": '["Ada", "Ben"]', "text": f"Ada: {SAID[0]}\nBen: {SAID[1]}",
                "mel": mel_TSB.astype(np.float32)}
    return write_rows(tmp_path_factory.mktemp("d") / "data",
                      {"train": dialogues[:2], "valid": dialogues[2:]})


@pytest.fixture(scope="module")
def clips(dataset, tmp_path_factory):
    """What each of them was recorded as: the sound of the features."""
    rate = Decoder.sample_rate
    features = {"id": Feature((), "str", "")} | {
        f"{prefix}audio": Feature((None,), "float32", "", "", float(rate))
        for prefix in PREFIXES[:2]}
    decoder, found = Decoder(), []
    for row in dataset.source("valid", ("id", "mel")):
        waves = [decoder.waveform(x) for x in decoder.speakers({"mel": row["mel"]})]
        found.append({"id": row["id"]} | {f"{p}audio": x for p, x in zip(PREFIXES, waves,
                                                                         strict=False)})
    return store.write_dataset(tmp_path_factory.mktemp("c") / "clips", name="clips", description="",
                               features=features, splits={"valid": found}, recipes={},
                               progress=False)


@pytest.fixture(scope="module")
def loaded(dataset, networks):
    """Read once, on one device: the tests' eight would take eight times the pictures."""
    with pytest.MonkeyPatch.context() as patch:
        found = jax.local_devices()[:1]
        patch.setattr(jax, "local_devices", lambda: found)
        return benchmark(dataset, networks).networks


def benchmark(dataset, networks="", clips=None, system=None, loaded=None):
    found = dialogue.Benchmark(config(networks=str(networks)), Decoder(), dataset,
                               system or ToySystem(), clips=clips)
    found.networks = loaded or found.networks
    found.recogniser = types.SimpleNamespace(transcribe=lambda wave, rate: SAID[0])
    found.load_networks()
    return found


def test_without_their_files_nothing_is_measured_and_rows_say_what_is_needed(dataset):
    lacking = benchmark(dataset).without_network
    for metric, name in (("UTMOS", "utmos"), ("SIM", "wavlm_ecapa"), ("VoxSim", "voxsim"),
                         ("WER_open", "wav2vec2_ctc"), ("WER_whisper", "whisper"),
                         ("DNSMOS_OVRL", "dnsmos"), ("LSE_C", "syncnet"), ("LSE_D", "syncnet"),
                         ("FID", "inception"), ("FVD", "i3d")):
        assert lacking[metric].startswith(f"needs {TABLE[name].wanted}"), metric


def test_each_speakers_own_channel_and_own_film_is_judged(dataset, clips, loaded, monkeypatch):
    bench, judged = benchmark(dataset, clips=clips, loaded=loaded), []
    network = loaded["syncnet"]

    def lips(pictures, count, audio_N):
        judged.append((list(pictures), audio_N))
        return network(iter(judged[-1][0]), count, audio_N)

    monkeypatch.setitem(loaded._loaded, "syncnet", lips)
    by, rate = bench.networks, bench.sample_rate
    truth = bench.truth("valid", 0)
    row = bench.score("valid", 0, truth)
    waves = [speaker.waveform for speaker in truth.alone]
    films = [list(bench.decoder.pictures(x)[1]) for x in bench.decoder.speakers(truth.streams)]
    assert np.ptp(waves[0]) < 0.9 * np.ptp(waves[1]) and not np.array_equal(*films)
    assert row["UTMOS"] == pytest.approx(np.mean(by["utmos"](waves, rate)), rel=1e-5)
    one_E, other_E = by["wavlm_ecapa"](waves, rate)
    assert row["SIM"] == pytest.approx(1, abs=1e-5) and one_E @ other_E < 0.999
    alike = [by["voxsim"](x, x, rate) for x in waves]
    assert row["VoxSim"] == pytest.approx(np.mean(alike), abs=1e-3)
    for (pictures, audio_N), film, wave in zip(judged, films, waves, strict=True):
        np.testing.assert_array_equal(pictures, [syncnet.seen(x) for x in film])
        np.testing.assert_array_equal(audio_N, syncnet.heard(wave, rate))
    both = [network(iter(pictures), FRAMES, audio_N) for pictures, audio_N in judged]
    for name in ("LSE_C", "LSE_D", "LSE_offset"):
        assert row[name] == pytest.approx(np.mean([x[name] for x in both]), rel=1e-5), name
    if importlib.util.find_spec("whisper_normalizer"):
        heard = [by["wav2vec2_ctc"](wave, rate) for wave in waves]
        assert row["heard_open"] == " / ".join(heard)
        assert sum(row["WER_open"][k] for k in ("substitutions", "deletions", "hits")) == 4
    for metric in ("UTMOS", "SIM", "LSE_C", "FID", "FVD"):
        assert bench.recipes[metric]["networks"] and bench.recipes[metric]["speakers"]
        assert metric not in bench.without_network


def test_pictures_of_all_speakers_are_one_distribution(dataset, loaded):
    bench = benchmark(dataset, loaded=loaded)
    kept, made = [], []
    for index in (0, 1):
        truth = bench.truth("valid", index)
        streams = {"latents": truth.streams["latents"] * 1.5, "mel": truth.streams["mel"],
                   "voices": truth.streams["voices"]}
        signals = bench.model(streams, "avatar", "valid", index)
        kept.append(bench.kept("valid", index, signals))
        made += [list(bench.decoder.pictures(x)[1]) for x in bench.decoder.speakers(streams)]
    by_hand = np.concatenate([bench.networks["inception"](iter(film)) for film in made])
    np.testing.assert_allclose(np.concatenate([k["inception"] for k in kept]), by_hand, atol=1e-5)
    summary = bench.summarise([{}] * 2, kept)
    true = np.concatenate([k["true_inception"] for k in kept])
    assert summary["FID"]["value"] == pytest.approx(frechet.frechet(by_hand, true), rel=1e-5)
    assert summary["FID"]["value"] > 1e-6 and np.isfinite(summary["FVD"]["value"])
    assert len(kept[0]["i3d"]) == 2  # a clip of each speaker
    of_truth = [bench.kept("valid", i, bench.truth("valid", i)) for i in (0, 1)]
    assert bench.summarise([{}] * 2, of_truth)["FID"]["value"] < 1e-6


def test_faces_alone_are_judged_beside_the_sound_that_they_were_made_for(dataset, loaded):
    bench = benchmark(dataset, loaded=loaded, system=Visual())
    truth = bench.truth("valid", 0)
    signals = bench.model({"latents": truth.streams["latents"]}, "model", "valid", 0)
    row, own = bench.score("valid", 0, signals), bench.score("valid", 0, truth)
    for name in ("LSE_C", "LSE_D", "LSE_offset"):
        assert row[name] == pytest.approx(own[name], rel=1e-6)
    assert "FID" in {m.name for m in bench.metrics}
    assert not {"UTMOS", "SIM", "WER_open"} & ({m.name for m in bench.metrics} | row.keys()
                                               | own.keys())


def test_an_evaluation_of_dialogues_hears_several_together(dataset, networks, monkeypatch,
                                                           tmp_path):
    """On an accelerator: channels of all examples at once, the same numbers as one by one."""
    found = []
    wanted = {"UTMOS", "WER_open"}
    for folder in ("one", "several"):
        if folder == "several":
            monkeypatch.setattr(runner, "at_once", lambda count: 2)
            monkeypatch.setattr(rows, "at_once", lambda count: max(count, 1))
        bench = dialogue.Benchmark(config(networks=str(networks)), Decoder(), dataset, ToySystem())
        bench.metrics = [m for m in bench.metrics if m.name in wanted]
        results = toys.evaluate(bench, Generator(ToySystem(), batch_size=2, seed=0),
                                {"w": np.zeros(1)}, tmp_path / folder, splits=("valid",),
                                progress=False)
        found.append(results["rows"])
    for ours, theirs in zip(*found, strict=True):
        for variant in ("avatar", "truth", "shuffled"):
            assert ours[variant]["UTMOS"] == pytest.approx(theirs[variant]["UTMOS"], abs=1e-5)
            assert ours[variant].get("WER_open") == theirs[variant].get("WER_open")
