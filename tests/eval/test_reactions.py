"""Nods and smiles are found where they were put; a listener is scored with its partner, alone, with
a stranger and without guidance."""

import json
import types

import jax
import numpy as np
import pytest

from avjax.inference.generator import Generator
from avjax.systems import api
from avjax.systems.avflow import config as avflow_config
from data_pipelines.store import dataset as store
from data_pipelines.store.schema import Feature
from eval.benchmarks import listening
from eval.benchmarks.common import clips
from eval.metrics import reactions
from eval.run import runner
from tests.eval import toys

FPS = 30
TOKENS, PARTNER = 3, 4


def test_smiles_begin_where_they_begin():
    smiling_N = np.zeros(300, bool)
    for begin, end in ((0, 20), (50, 80), (83, 100), (150, 153), (200, 260)):
        smiling_N[begin:end] = True
    # the first was there before; a pause of 3 frames is none, nor is a smile of 3
    np.testing.assert_allclose(reactions.onsets(smiling_N, FPS, 0.2), [50 / FPS, 200 / FPS])
    assert not len(reactions.onsets(np.ones(50, bool), FPS, 0.2))


def test_nods_are_peaks_of_pitch():
    time = np.arange(300) / FPS
    pitch = sum(9.0 * np.exp(-np.square((time - at) / 0.1)) for at in (2.0, 2.5, 7.0))
    pitch = pitch + 2.0 * np.exp(-np.square((time - 5.0) / 0.1)) + 30.0 * time / 10
    found = reactions.nods(pitch, FPS, 4.0, 2 / 30)
    np.testing.assert_allclose(found, [2.0, 2.5, 7.0], atol=0.05)
    assert not len(reactions.nods(-pitch[:60], FPS, 4.0, 2 / 30)), "up is no nod"


@pytest.mark.parametrize("own, true, counts", [
    ((1.0, 2.0), (1.2, 2.25), (2, 0, 0)), ((1.0,), (1.3,), (0, 1, 1)),
    ((1.0, 1.1), (1.05,), (1, 1, 0)), ((0.8, 1.0), (1.0, 1.24), (2, 0, 0)), ((), (1.0,), (0, 0, 1)),
])
def test_events_are_matched_once(own, true, counts):
    found = reactions.matched(np.array(own), np.array(true), 0.25)
    assert tuple(found) == counts


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return write(tmp_path_factory.mktemp("talks"))


def write(folder):
    """(features, clips): each side's turns by turns, a second long; face code 1 is the smile."""
    rng = np.random.default_rng(0)

    def sequence(width):
        return Feature((None, width), "float32", "toy", rate=toys.RATE)

    widths = {"tokens": TOKENS, "mel": toys.MEL, "face": toys.FACE, "head": toys.HEAD,
              "partner_tokens": PARTNER}
    events = [{"kind": "turn", "speaker": k % 2, "start": float(k), "end": k + 1.0}
              for k in range(4)]

    def examples(split):
        for i in range(3):
            own = toys.streams(rng, 300)
            own["face"][:, 1] = np.sin(2 * np.pi * 0.7 * (np.arange(300) / toys.RATE - 0.3))
            more = {n: rng.standard_normal((300, widths[n])).astype(np.float32)
                    for n in ("tokens", "partner_tokens")}
            yield {"id": f"{split}/{i}", "speaker": "s", "text": toys.WORDS[i], **own, **more}

    text = {n: Feature((), "str", n) for n in ("id", "speaker", "text")}
    features = store.write_dataset(
        folder / "features", name="talks", description="toy", progress=False,
        features=text | {n: sequence(w) for n, w in widths.items()}, recipes={},
        splits={s: examples(s) for s in ("train", "valid")},
        codecs={"pose": {"mean": np.zeros(7), "std": np.ones(7)}})
    spoken = {"events": Feature((), "str", "turns"), "side": Feature((), "str", "who")}
    own = store.write_dataset(
        folder / "clips", name="talks", description="toy", progress=False, recipes={}, codecs={},
        features={"id": text["id"]} | spoken,
        splits={s: [{"id": f"{s}/{i}", "side": "1", "events": json.dumps(events)}
                    for i in range(3)] for s in ("train", "valid")})
    return features, own


def benchmark_of(parts, guidance=1.5):
    c = toys.config()
    c.system = avflow_config.default()
    c.system.update(dict(d_model=8, num_blocks=1, num_heads=1, d_ff=8, token_dim=TOKENS,
                         mel_dim=toys.MEL, face_dim=toys.FACE, head_dim=toys.HEAD, euler_steps=2,
                         partner_token_dim=PARTNER, partner_dropout=0.5, guidance=guidance,
                         mel_recipe={}))
    c.system.window = (2, 1)
    system = api.build(c.system)
    return system, listening.Benchmark(c, toys.Decoder(), parts[0], system, clips=parts[1])


def test_a_listener_is_scored_with_and_without_its_partner(parts, tmp_path):
    system, benchmark = benchmark_of(parts)
    assert tuple(benchmark.models) == ("model", clips.ALONE, clips.STRANGER, clips.UNGUIDED)
    example = parts[0].source("valid")[0]
    alone, stranger = (benchmark.given(v, example) for v in (clips.ALONE, clips.STRANGER))
    assert not alone["partner_tokens"].any()
    others = [parts[0].source("valid")[i]["partner_tokens"] for i in (1, 2)]
    assert any(np.array_equal(stranger["partner_tokens"], x) for x in others)
    for changed in (alone, stranger):
        np.testing.assert_array_equal(changed["tokens"], example["tokens"])
    assert benchmark.given("model", example) is example
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: 0.2 * rng.standard_normal(x.shape, np.float32),
                          api.abstract_params(system))
    generator = Generator(system, seed=0)
    unguided = benchmark.generator_of(clips.UNGUIDED, generator)
    assert unguided.system.config.guidance == 1.0 and benchmark.generator_of(
        clips.ALONE, generator) is unguided and benchmark.generator_of(
        clips.STRANGER, generator) is generator
    face = {v: next(runner.generated(benchmark, generator, params, "valid", v, [0]))[1].face_NF
            for v in benchmark.models}
    names = list(face)
    for i, a in enumerate(names):
        for b in names[i + 1:]:
            assert np.abs(face[a] - face[b]).max() > 1e-4, (a, b)


def test_without_guidance_there_is_nothing_to_leave_out(parts):
    assert tuple(benchmark_of(parts, guidance=1.0)[1].models) == ("model", "alone", "stranger")


def test_reactions_count_in_the_partners_turns(parts):
    _, benchmark = benchmark_of(parts)
    mine = benchmark.listening("valid", 0, 150)
    expected = (np.arange(150) // FPS) % 2 == 0  # side 1 listens to speaker 0
    expected[120:] = False  # nobody's turn
    np.testing.assert_array_equal(mine, expected)
    own, = benchmark.speaking("valid", 0, 150)
    np.testing.assert_array_equal(own, ~expected & (np.arange(150) < 120))
    names = {m.name for m in benchmark.metrics}
    assert {"F1_smiles", "F1_nods", "F1_smile_onsets", "F1_smiles_listening"} <= names
    truth = benchmark.truth("valid", 0)
    late = types.SimpleNamespace(smile=np.roll(truth.smile, 6), pitch=np.roll(truth.pitch, 6))
    case = types.SimpleNamespace(benchmark=benchmark, split="valid", index=0, truth=truth,
                                 aligned=True, signals=late)
    smiles, nods = reactions._smiles(case, True), reactions._nods(case, True)
    assert set(smiles) == {"smiles_listening", "smile_onsets_listening"}
    whole = reactions._nods(case, False)["nods"]
    tp = {tolerance: counts[0] for tolerance, counts in whole.items()}
    assert tp["0.1"] < tp["0.25"] and sum(nods["nods_listening"]["0.25"]) < sum(whole["0.25"])
    same = types.SimpleNamespace(**vars(case) | {"signals": truth})
    assert all(c[1:] == [0, 0] for c in reactions._smiles(same, False)["smiles"].values())
    scores = benchmark.score("valid", 0, truth)
    summary = benchmark.summarise([scores] * 3, [])
    assert summary["F1_smiles"]["value"] == 1 and summary["F1_nods"]["sweep"]["0.1"] == 1
    assert benchmark.recipes["F1_nods_listening"]["events"]["tolerance_s"] == 0.25
