"""The dialogue benchmark on a corpus of numbers: a model that reacts to its own partner is told
from one that does not."""

import numpy as np
import pytest

from avjax.encoders import portrait
from avjax.errors import UserError
from avjax.inference.generator import Generator
from avjax.signal import mel
from avjax.systems import api
from avjax.systems.api import Spec
from data_pipelines.store import dataset as store
from data_pipelines.store.schema import Feature
from eval.benchmarks import dialogue
from eval.metrics import retrieval, turns
from eval.report import page, plots, tables
from eval.run import runner
from eval.run.in_loop import InLoopEvaluator
from tests.eval import toys
from tests.eval.toy_dialogues import (
    FRAMES,
    SPEAKERS,
    WIDTH,
    ToyDecoder,
    ToySystem,
    config,
    example,
    write,
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write(tmp_path_factory.mktemp("d") / "data")


class ToyFaces(api.System):
    """A voice that is the face embedding, or the brightest pixel."""

    tasks, makes = ("generate",), {"generate": ("voices",)}

    def __init__(self):
        self.config = None
        voices, faces = (Spec(("batch", SPEAKERS, 4), "float32", name)
                         for name in ("voices", "faces"))
        pictures = Spec(("batch", SPEAKERS, 32, 32, 3), "uint8", "portraits")
        self.example_spec = {"portraits": pictures, "faces": faces, "voices": voices}
        self.conditions_spec = {"portraits": pictures, "faces": faces}
        self.streams_spec = {"voices": voices}

    def conditions(self, example, task):
        return {k: example[k] for k in self.conditions_spec}, 1

    def generate(self, params, conditions, keys, task):
        brightest = conditions["portraits"].max((2, 3, 4)).astype("float32")
        return {"voices": conditions["faces"].at[..., 3].set(brightest)}


@pytest.mark.parametrize("motion", [True, False])
def test_voices_of_worse_portraits(tmp_path, motion):
    """Every degradation is a variant of its own; the face embedding is made anew of the worse
    picture. Recordings whose faces nobody has read do for voices."""
    rng, words = np.random.default_rng(0), Feature((), "str", "")
    pictures = rng.integers(0, 255, (12, 32, 32, 3)).astype(np.uint8)
    encoder = portrait.fit(pictures, 4)
    features = {"id": words, "text": words, "speakers": words,
                "voices": Feature((SPEAKERS, 4), "float32", ""),
                "faces": Feature((SPEAKERS, 4), "float32", ""),
                "portraits": Feature((SPEAKERS, 32, 32, 3), "uint8", ""),
                "mel": Feature((None, SPEAKERS, 80), "float32", "", "", mel.FRAME_RATE),
                **({"motion": Feature((None, SPEAKERS, WIDTH), "float32", "", "", 25.0)}
                   if motion else {})}
    names = ("id", "text", "speakers", "voices", "mel", *(["motion"] if motion else []))
    rows = [{k: x for k, x in example(rng, i).items() if k in names} | {
        "portraits": pictures[2 * i:2 * i + 2], "faces": encoder(pictures[2 * i:2 * i + 2])}
            for i in range(6)]
    splits = {"train": [row | {"id": f"t{row['id']}"} for row in rows], "valid": rows}
    data = store.write_dataset(tmp_path / "data", name="toy", description="", features=features,
                               progress=False, splits=splits, recipes={"mel": {"kind": "log-mel"}})
    decoder, system = ToyDecoder(), ToyFaces()
    decoder.recipes["faces"] = encoder.recipe
    decoder.codecs["faces"] = encoder.arrays()
    benchmark = dialogue.Benchmark(config(), decoder, data, system)
    results = toys.evaluate(benchmark, Generator(system, batch_size=4, seed=0), {}, tmp_path,
                            splits=("valid",), progress=False)
    assert set(results["models"]) == {"model", *retrieval.DEGRADATIONS} - {"clean"}
    row, worse = results["rows"][0], retrieval.DEGRADATIONS["blur_2"](rows[0]["portraits"][0])
    made = {name: np.array(row[name]["voices"]["made"][0]) for name in ("model", "blur_2")}
    np.testing.assert_allclose(made["model"][:3], rows[0]["faces"][0, :3], atol=1e-4)
    np.testing.assert_allclose(made["blur_2"], [*encoder(worse)[:3], worse.max()], atol=1e-4)
    assert np.abs(made["blur_2"] - made["model"]).max() > 1 and "voice_R@1" in results["summary"][
        "valid"]["rotate_30"]
    assert dialogue.Benchmark(config(), decoder, data, system,
                              full=False).models.keys() == {"model"}
    assert results["summary"]["valid"]["truth"]["voice_R@1"]["value"] == 1 and not results["failed"]
    if not motion:
        assert benchmark.baselines == ("truth",)
        with pytest.raises(UserError, match="nothing to compare faces with.*'motion'"):
            dialogue.Benchmark(config(), decoder, data, ToySystem())


def test_a_voice_activity_is_part_of_what_is_measured(dataset):
    made = {activity: dialogue.Benchmark(config(activity=activity), ToyDecoder(), dataset,
                                         ToySystem())
            for activity in ("energy", "energy:pad_ms=0")}
    made[None] = dialogue.Benchmark(config(), ToyDecoder(), dataset, ToySystem())  # as before it
    assert made["energy"].recipe_hash == made[None].recipe_hash
    other = made["energy:pad_ms=0"]
    assert other.recipe_hash != made[None].recipe_hash
    assert other.recipes["gap_mean_s"]["vad"]["pad_ms"] == 0
    assert other.baseline("truth", "valid", 0).detector.options.pad_ms == 0
    with pytest.raises(UserError, match="unknown voice activity.*config.evaluate.activity"):
        dialogue.Benchmark(config(activity="loud"), ToyDecoder(), dataset, ToySystem())


@pytest.fixture(scope="module")
def scored(dataset, tmp_path_factory):
    out = {}
    for strange in (False, True):
        system = ToySystem(strange)
        benchmark = dialogue.Benchmark(config(), ToyDecoder(), dataset, system)
        sampler = Generator(system, batch_size=4, seed=0)
        folder = tmp_path_factory.mktemp("out")
        results = toys.evaluate(benchmark, sampler, {"w": np.zeros(1)}, folder, splits=("valid",),
                                progress=False)
        out[strange] = results, benchmark, sampler, folder
    return out


def test_a_listener_that_reacts_is_told_from_one_that_does_not(scored):
    reacts, strange = (scored[s][0]["summary"]["valid"] for s in (False, True))
    value = {who: {m: e["value"] for m, e in x["avatar"].items()} for who,
             x in (("reacts", reacts), ("strange", strange))}
    for part in "eh":
        assert value["reacts"][f"RPCC_{part}"] < 0.1 < value["strange"][f"RPCC_{part}"]
        assert value["reacts"][f"PFD_{part}"] < 0.5 * value["reacts"][f"PFD_{part}_shuffled"]
        assert value["reacts"][f"FD_listen_{part}"] < value["strange"][f"FD_listen_{part}"]
        assert reacts["truth"][f"PFD_{part}"]["value"] < 1e-6 < reacts["shuffled"][f"PFD_{part}"][
            "value"]
        assert value["reacts"][f"FD_listen_{part}_pooled"] < value["strange"][
            f"FD_listen_{part}_pooled"]
        for name in (f"SID_{part}", f"var_listen_{part}"):  # those of the truth
            off = {who: abs(value[who][name] - reacts["truth"][name]["value"]) for who in value}
            assert off["reacts"] < off["strange"], name
    assert value["reacts"]["F1_lips"] > value["strange"]["F1_lips"]
    assert reacts["codec"]["F1_lips"]["value"] == 1.0 and value["reacts"]["mel_L1"] < 1e-6


def test_turns_retrieval_and_lengths(scored):
    summary = scored[False][0]["summary"]["valid"]
    for variant in ("avatar", "truth"):  # four turns of a second in four seconds
        assert summary[variant]["turn_per_minute"]["value"] == pytest.approx(60, rel=0.1)
        assert summary[variant]["turn_mean_s"]["value"] == pytest.approx(1, abs=0.1)
        assert summary[variant]["transfer_mean_s"]["value"] == pytest.approx(0, abs=0.1)
        assert summary[variant]["transfer_W1_s"]["value"] == summary[variant]["turn_W1_s"][
            "value"] == 0
    row = {f"{of}{name}_s": spans for of, spans in (("", [1.0]), ("true_", [1.5]))
           for name in (*turns.EVENTS, "transfer")}
    assert scored[False][1].summarise([row | {"seconds": 60.0}],
                                      [{}])["transfer_W1_s"]["value"] == pytest.approx(0.5)
    assert summary["avatar"]["voice_R@1"]["value"] == 1 and summary["avatar"]["voice_chance@1"][
        "value"] == pytest.approx(1 / 12)
    assert summary["speech"]["length_error"]["value"] > 0.2 and "F1_lips" not in summary["speech"]
    assert "mel_L1" not in summary["speech"] and summary["mean"]["FD_e"]["value"] > 1


def test_what_has_its_own_timing_is_never_compared_frame_by_frame(scored):
    """Of equal length, by chance."""
    benchmark = scored[False][1]
    streams = {k: benchmark.truth("valid", 0).streams[k] for k in ("mel", "latents")}
    for made, compared in ((("mel", "latents"), True), (("units", "mel", "latents"), False)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(benchmark.makes, "avatar", made)
            signals = benchmark.model(streams, "avatar", "valid", 0)
        row = benchmark.score("valid", 0, signals)
        assert ("mel_L1" in row) is ("lips" in row) is bool(benchmark.frames("valid", 0,
                                                                             signals)) is compared
        assert row["length_error"] == 0 and "FD_e" in row


def test_faces_without_known_lips(dataset, monkeypatch):
    monkeypatch.setattr(ToyDecoder, "face_kind", "eigenface")
    monkeypatch.setattr(ToyDecoder, "codec", lambda decoder, name: {})
    benchmark = dialogue.Benchmark(config(), ToyDecoder(), dataset, ToySystem())
    truth = benchmark.truth("valid", 0)
    assert "lips" not in benchmark.score("valid", 0, truth) and "F1_lips" not in benchmark.recipes
    (name, curves, _), *_ = plots.curve_pairs(benchmark, {"avatar": truth}, truth)[0]
    assert name == "face code 0" and len(curves["avatar"]) == FRAMES


def test_it_is_scored_in_the_loop(dataset):
    settings, system = config(), ToySystem()
    settings.evaluate.splits, settings.evaluate.in_loop_examples = ("valid",), 2
    benchmark = dialogue.Benchmark(settings, ToyDecoder(), dataset, system, full=False)
    metrics, shown = InLoopEvaluator(settings, system, benchmark,
                                     every=1).run({"w": np.zeros(1)}, 1)
    assert metrics["avatar/mel_L1"] < 1e-6 and metrics["avatar/FD_e_of_shuffled"] < 1 and metrics[
        "speech/length_error"] > 0.2
    assert shown["images"]["avatar/face"].shape == (16, 6 * 8 * SPEAKERS,
                                                    3) and shown["audio"].keys() == {
        "avatar/generated", "speech/generated", "truth"}


def test_targets_table_and_report(scored, tmp_path):
    for strange, met in ((False, True), (True, False)):
        targets = {t["metric"]: t["met"] for t in scored[strange][0]["targets"]["valid"]}
        for metric in ("avatar RPCC_e", "avatar PFD_h", "avatar F1_lips"):
            assert targets[metric] is met, metric
    results, benchmark, sampler, folder = scored[False]
    text = tables.table(results)
    for name in ("RPCC_e_other", "gap_per_minute", "voice_R@1", "SID_h", "transfer_W1_s"):
        assert name in text
    assert results["recipes"]["F1_lips"]["fps"] == 25
    samples = runner.samples(benchmark, sampler, {"w": np.zeros(1)}, ("valid",), 1)
    text = page.write(tmp_path, results, samples).read_text()
    assert "with its partner" in text and "video/mp4" in text and "codec alone" in text
