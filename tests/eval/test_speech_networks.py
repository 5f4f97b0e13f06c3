"""Networks that judge speech, against recordings of the published ones; their metrics."""

import functools
import math
import shutil
import sys
import types

import jax
import numpy as np
import pytest

from avjax.encoders.voices import speech
from avjax.encoders.wav2vec2 import CTC_LABELS, spelled
from avjax.errors import UserError
from avjax.weights.torch_writer import write_torch_zip
from eval import packages, pooling, registry
from eval.metrics import intelligibility
from eval.metrics.judged import voxsim as voxsim_metric
from eval.metrics.judged import wavlm_ecapa as voice_metric
from eval.networks import files
from eval.networks.speech import sound, utmos, voxsim, wav2vec2_ctc, wavlm_ecapa
from eval.report import tables
from tests import ge2e_weights
from tests.eval import toys
from tests.golden_files import config as golden_config
from tests.golden_files import golden, relative_error, some, under

TOLERANCE = 1e-4
judges = pytest.mark.parametrize(("name", "record"), golden("utmos", "odd/score"))


def write(record, path, **changed):
    """The recorded network in its published layout, with the sizes that a published file's shapes
    stand for; a None leaves an array out."""
    state = {n: np.ascontiguousarray(x) for n, x in under(record, "sd/").items()}
    state |= {name.replace("__", "."): x for name, x in changed.items()}
    c = golden_config(record)
    heads = c.get("heads") or c.get("num_attention_heads")
    write_torch_zip(path, {"model": {n: x for n, x in state.items() if x is not None},
                           "cfg": c.get("wavlm") or {"encoder_attention_heads": heads}})
    return path


@judges
def test_utmos_equals_the_published_network(name, record, tmp_path):
    """Each by itself, and all of them padded in one batch."""
    judge = utmos.load(write(record, tmp_path / "utmos.pt"))
    waves = [*record["odd/wav"], *record["even/wav"]]
    scores = np.concatenate([record["odd/score"], record["even/score"]])
    assert relative_error(judge(waves, 16000), scores) < TOLERANCE
    x_BN = np.stack([np.pad(x, (0, 9000 - len(x)), constant_values=3) for x in waves])
    out = jax.jit(functools.partial(utmos.network, judge._config))(
        judge._params, x_BN, np.array([len(x) for x in waves]))
    assert relative_error(out["score"], scores) < TOLERANCE
    for ours, theirs in (("encoded", "ssl_out"), ("lstm", "blstm_out"),
                         ("frame_scores", "frame_scores")):
        for rows, case in ((slice(2), "odd"), (slice(2, 4), "even")):
            expected = record[f"{case}/{theirs}"]
            found = np.asarray(out[ours][rows, :expected.shape[1]]).reshape(expected.shape)
            assert relative_error(found, expected) < TOLERANCE, (ours, case)
    undefined = judge([np.zeros(16000), np.full(16000, np.nan), waves[0][:100]], 16000)
    assert np.isnan(undefined).all()


@judges
def test_every_array_of_another_utmos_is_told(name, record, tmp_path):
    path = write(record, tmp_path / "utmos.pt", judge_emb=None, phoneme__weight=np.ones((2, 2)),
                 blstm__bias_hh_l0_reverse=np.ones(7, np.float32),
                 wav2vec2__layer_norm__bias=None)
    with pytest.raises(UserError, match="not the weights of UTMOS22-strong") as error:
        utmos.load(path)
    told = str(error.value)
    for part in ("judge_emb", "phoneme.weight", "blstm.bias_hh_l0_reverse (7,)",
                 "wav2vec2.feature_projection.layer_norm.bias", str(path)):
        assert part in told, part


@pytest.mark.parametrize("rate", [22050, 24000, 8000])
def test_resampling_is_a_windowed_sinc(rate):
    """Each sample by the formula: sum over k of x[k] h(k / rate - n / 16000)."""
    wave_N = np.random.default_rng(0).normal(size=300)
    found = sound.at_16khz(wave_N, rate)
    assert len(found) == math.ceil(len(wave_N) * 16000 / rate)
    cut_off = min(rate, 16000) * 0.99
    time = (np.arange(300) / rate - np.arange(len(found))[:, None] / 16000) * cut_off
    window = np.where(np.abs(time) < 6, np.cos(np.pi * time / 12) ** 2, 0)
    np.testing.assert_allclose(found, (np.sinc(time) * window * cut_off / rate) @ wave_N, atol=1e-5)


def test_voices_give_the_published_cosine_and_are_not_computed_twice(tmp_path, monkeypatch):
    record = some("wavlm_ecapa")
    voices = wavlm_ecapa.load(write(record, tmp_path / "voices.pth"))
    one, silent, two = voices([record["wav"][0], np.zeros(9000), record["wav"][1]], 16000)
    np.testing.assert_allclose(one @ two, record["cosine"][0], atol=TOLERANCE)
    assert silent is None
    monkeypatch.setattr(voices._encoder, "many", None)
    np.testing.assert_array_equal(voices([record["wav"][1]], 16000)[0], two)


@pytest.mark.parametrize(("network", "suffix"), [("wavlm_ecapa", ""), ("ge2e", "_ge2e")])
def test_similarity_is_to_the_clip_and_to_another_of_the_same_speaker(network, suffix):
    heard = {"made": [1.0, 0.0], "clip": [0.6, 0.8], "other": [0.0, 1.0], "silence": None}

    def case(own="made", clips=("clip", "other"), speakers=("a", "a")):
        benchmark = types.SimpleNamespace(
            networks={network: lambda waves, rate: [
                None if heard[w] is None else np.array(heard[w]) for w in waves]},
            sample_rate=16000, clip_audio=lambda split, index: clips[index],
            labels=lambda split: (list(speakers), ["", ""]), other=lambda split, index: 1)
        return types.SimpleNamespace(benchmark=benchmark, split="valid", index=0,
                                     signals=types.SimpleNamespace(waveform=own))

    score = voice_metric.scored(network, suffix)
    for given, same, other in ((case(), 0.6, 0.0), (case(speakers=("a", "b")), 0.6, None),
                               (case(clips=(None, "other")), None, 0.0),
                               (case(own="silence"), None, None)):
        assert score(given) == {f"SIM{suffix}": same, f"SIM_other{suffix}": other}


def test_ge2e_is_found_in_its_package_once_networks_are_asked_for(tmp_path, monkeypatch):
    """Not imported; a file in the folder comes first."""
    site = tmp_path / "site"
    (site / "resemblyzer").mkdir(parents=True)
    (site / "resemblyzer" / "__init__.py").write_text("raise ImportError")
    write_torch_zip(site / "resemblyzer" / "pretrained.pt",
                    {"model_state": ge2e_weights.random_weights()})
    monkeypatch.setattr(sys, "path", [str(site), *sys.path])
    monkeypatch.setattr(speech, "detector", ge2e_weights.Loud)
    given = tmp_path / "given"
    given.mkdir()
    assert "ge2e" not in files.Networks().paths
    networks = files.Networks(str(given))
    assert networks.paths["ge2e"] == site / "resemblyzer" / "pretrained.pt"
    wave_N = np.random.default_rng(0).normal(scale=0.1, size=(2, 24000))
    one, again, silent = networks["ge2e"]([wave_N[0], wave_N[0] / 2, np.zeros(24000)], 16000)
    assert one @ one == pytest.approx(1) and silent is None and again.shape == (256,)
    shutil.copytree(site / "resemblyzer", given / "resemblyzer")
    assert files.Networks(str(given)).paths["ge2e"].is_relative_to(given)


def test_voxsim_is_the_mean_of_pieces_and_of_the_whole(tmp_path, monkeypatch):
    """Pair by pair, as its published evaluation; names as its trainer saves them."""
    record = some("wavlm_ecapa")
    voices = wavlm_ecapa.load(write(record, tmp_path / "plain.pth"))  # of each recording alone
    state = {f"__S__.{n}": np.ascontiguousarray(x) for n, x in under(record, "sd/").items()}
    write_torch_zip(tmp_path / "wavlm_ecapa.model",
                    {"model": state, "cfg": golden_config(record)["wavlm"]})
    rate = voxsim.load(tmp_path / "wavlm_ecapa.model")
    monkeypatch.setattr(voxsim, "PIECE", 4000)
    long_N, short_N = record["wav"][0], record["wav"][1][:3000]
    wrapped_N = np.concatenate([short_N, short_N[:1001]])
    pieces = ([long_N[int(k * 5000 / 9):][:4000] for k in range(10)],
              [wrapped_N[k // 9:][:4000] for k in range(10)])
    pairs = [one @ other for one in voices(pieces[0], 16000) for other in voices(pieces[1], 16000)]
    whole, other = voices([long_N, short_N], 16000)
    expected = 5 * (np.mean(pairs) + whole @ other) / 2 + 1
    assert rate(long_N, short_N, 16000) == pytest.approx(expected, abs=1e-5)
    assert rate(long_N, np.zeros(3000), 16000) is None and rate(long_N, [], 16000) is None
    silent = types.SimpleNamespace(sample_rate=16000, networks={"voxsim": rate},
                                   clip_audio=lambda split, index: None)
    case = types.SimpleNamespace(benchmark=silent, split="valid", index=0)
    assert voxsim_metric._score(case) == {"VoxSim": None}
    silent.clip_audio = lambda split, index: short_N
    case.signals = types.SimpleNamespace(waveform=long_N)
    assert voxsim_metric._score(case) == {"VoxSim": pytest.approx(expected, abs=1e-5)}


def test_errors_are_counted_and_pooled_as_jiwer_does():
    record = some("metrics")
    pairs = zip(record["wer/reference"], record["wer/hypothesis"], strict=True)
    rows = [intelligibility.rates(str(r), str(h), "_open") for r, h in pairs]
    for kind in ("wer", "cer"):
        name = f"{kind.upper()}_open"
        pool = registry.Pool(None, [*rows, intelligibility.rates("", "heard", "_open")], [])
        entry = intelligibility.pooled(name, pool)
        assert entry["value"] == pytest.approx(float(record[f"{kind}/pooled"]), rel=1e-12)
        assert entry["n"] == len(rows)
        counts = [sum(row[name][k] for row in rows) for k in intelligibility.ERRORS]
        np.testing.assert_array_equal(counts, record[f"{kind}/pooled_SDIH"])
        name += intelligibility.MEAN
        mean = pooling.by_mean(name, pool)
        assert mean["value"] == pytest.approx(record[f"{kind}/per_utterance"].mean(), rel=1e-12)
    untold = registry.Pool(None, [intelligibility.rates("", "", "_open")], [])
    nothing = intelligibility.pooled("WER_open", untold)
    assert math.isnan(nothing["value"]) and nothing["n"] == 0


def test_letters_are_spelled_without_repetitions_and_blanks():
    frames = [CTC_LABELS.index(c) for c in "HHEE-LL-LOO||-|OH--"]
    assert spelled(np.eye(len(CTC_LABELS))[frames]) == "HELLO  OH"


def test_the_normaliser_is_whispers():
    pytest.importorskip("whisper_normalizer")
    normalised = wav2vec2_ctc.normaliser()
    record = some("metrics")
    assert [normalised(str(text)) for text in record["normalise/raw"]] == \
        record["normalise/english"].tolist()


def test_without_the_normaliser_rates_are_not_measured_and_say_what_they_need(tmp_path,
                                                                              monkeypatch):
    """With the recogniser's file here; without either, both are named."""
    write(some("wav2vec2_ctc"), tmp_path / files.TABLE["wav2vec2_ctc"].files[0])
    find = packages.importlib.util.find_spec
    monkeypatch.setattr(packages.importlib.util, "find_spec",
                        lambda name: None if name == "whisper_normalizer" else find(name))
    data = toys.write_corpus(tmp_path / "corpus")
    benchmark = toys.benchmark(data, networks=str(tmp_path))
    benchmark.load_networks()
    need = "whisper_normalizer (pip install 'avjax[words]')"
    for name in ("WER_open", "CER_open", "WER_open_mean"):
        assert benchmark.without_network[name] == f"needs {need}" and name not in benchmark.recipes
    row = benchmark.score("valid", 0, benchmark.truth("valid", 0))
    assert "WER_open" not in row
    results = {"summary": {"valid": {"model": {}}}, "models": ["model"], "rows": [], "targets": {},
               "not_measured": benchmark.without_network}
    line, = (x for x in tables.table(results).splitlines() if x.split()[:1] == ["WER_open"])
    assert line.endswith(f"not measured: needs {need}")
    both = toys.benchmark(data).without_network["WER_whisper"]
    assert both.startswith("needs whisper-large-v3/model") and both.endswith(f"), {need}")


def test_a_benchmark_scores_with_the_files_of_a_folder(tmp_path, monkeypatch):
    """Published names, 22.05 kHz, a clip's own audio and its transcript."""
    pytest.importorskip("whisper_normalizer")
    for name, recording in (("wavlm_ecapa", "wavlm_ecapa"), ("utmos", "utmos"),
                            ("wav2vec2_ctc", "wav2vec2_ctc")):
        write(some(recording), tmp_path / files.TABLE[name].files[0])
    benchmark = toys.benchmark(toys.write_corpus(tmp_path / "corpus"), networks=str(tmp_path))
    benchmark.load_networks()
    index = next(i for i in range(6) if np.ptp(benchmark.truth("valid", i).waveform))
    truth = benchmark.truth("valid", index)
    monkeypatch.setattr(benchmark, "clip_audio", lambda split, index: truth.waveform)
    row = benchmark.score("valid", index, truth)
    assert row["SIM"] == pytest.approx(1, abs=1e-5) and math.isfinite(row["UTMOS"])
    said = benchmark.networks["wav2vec2_ctc"].normalised(benchmark.labels("valid")[1][index])
    for entry, count in (("WER_open", len(said.split())), ("CER_open", len(said))):
        assert sum(row[entry][k] for k in ("substitutions", "deletions", "hits")) == count
    summary = benchmark.summarise([row], [benchmark.frames("valid", index, truth)])
    names = {"SIM", "SIM_other", "UTMOS", "WER_open", "CER_open"}
    assert names <= summary.keys() and not names & benchmark.without_network.keys()
    for name in names:
        assert benchmark.recipes[name]["networks"] and benchmark.recipes[name]["resampler"]
