"""Three people: everybody listens to each of the others, and the floor passes between all."""

import numpy as np
import pytest

from avjax.inference.generator import Generator
from eval.benchmarks import dialogue
from eval.data.conversations import side_by_side
from eval.metrics import turns
from eval.report import page, tables
from eval.run import runner
from tests.eval import toys
from tests.eval.toy_dialogues import WIDTH, ToyDecoder, ToySystem, config, write

PAIRS = {f"{a} to {b}" for a in (1, 2, 3) for b in (1, 2, 3) if a != b}


class Drawer(ToyDecoder):
    """Draws who somebody is, as puppets are drawn."""

    def frames(self, streams, identity):
        return np.full((len(streams["motion"]), 8, 8, 3), identity, np.uint8)


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
    data = write(tmp_path_factory.mktemp("d") / "data", speakers=3, count=3)
    return dialogue.Benchmark(config(), ToyDecoder(), data, ToySystem(speakers=3))


def test_a_listener_who_is_deaf_to_one_of_the_others_is_found_out(benchmark):
    """Speaker 1 answers speaker 2, and moves at random while speaker 3 speaks; the others are as in
    truth."""
    rng, rows, frames = np.random.default_rng(1), [], []
    deaf = slice(54, 72)  # of the second of speaker 3, without its edges
    for index in range(3):
        truth = benchmark.truth("valid", index)
        motion = truth.streams["motion"].copy()
        motion[deaf, 0] = rng.normal(size=motion[deaf, 0].shape)
        latents = motion[..., None, None]
        signals = benchmark.model({"mel": truth.streams["mel"], "latents": latents}, "avatar",
                                  "valid", index)
        rows.append(benchmark.score("valid", index, signals))
        frames.append(benchmark.frames("valid", index, signals))
    found = benchmark.summarise(rows, frames)
    for part in "eh":
        pairs = found[f"RPCC_{part}"]["pairs"]
        assert set(pairs) == PAIRS and pairs["1 to 3"]["n"] == 3
        assert pairs["1 to 3"]["value"] > 0.2
        assert max(x["value"] for name, x in pairs.items() if name != "1 to 3") < 1e-6
        assert 0 < found[f"RPCC_{part}"]["value"] < pairs["1 to 3"]["value"]
        assert found[f"RPCC_{part}"]["n"] == 18 and found[f"FD_listen_{part}"]["n"] == 9
        paired = found[f"PFD_{part}"]["pairs"]
        assert max(paired, key=lambda name: paired[name]["value"]) == "1 to 3"
        assert found[f"RPCC_{part}_other"]["value"] > 0.1
    assert "pairs" not in found["FD_listen_e"]
    assert {"pairs"} <= benchmark.recipes["RPCC_e"].keys() & benchmark.recipes["gap_mean_s"].keys()


def test_the_floor_passes_between_pairs(benchmark):
    vads = [np.array([[0, 1000], [3000, 4000]]), np.array([[900, 2000]]), np.array([[2500, 2600]])]
    assert turns.transfers(vads) == [(0, 1, -0.1), (1, 2, 0.5), (2, 0, 0.4)]
    none = {f"{of}{name}_s": [] for of in ("", "true_") for name in turns.EVENTS}
    none |= {"seconds": 60.0}
    rows = [none | {"transfer_s": [0.3, 1.0], "true_transfer_s": [0.1],
                    "transfer_pairs_s": {"1 to 2": [0.3], "2 to 1": [1.0]},
                    "true_transfer_pairs_s": {"1 to 2": [0.1]}},
            none | {"transfer_s": [0.5], "true_transfer_s": [],
                    "transfer_pairs_s": {"1 to 2": [0.5]}, "true_transfer_pairs_s": {}}]
    found = benchmark.summarise(rows, [{}, {}])
    assert found["transfer_mean_s"]["pairs"]["1 to 2"] == {"value": pytest.approx(0.4), "n": 2}
    assert found["transfer_W1_s"]["pairs"]["1 to 2"]["value"] == pytest.approx(0.3)
    assert np.isnan(found["transfer_W1_s"]["pairs"]["2 to 1"]["value"])
    assert "pairs" not in found["gap_mean_s"]


def test_tables_and_report_have_a_line_for_each_pair(benchmark, tmp_path):
    generator = Generator(ToySystem(speakers=3), batch_size=3, seed=0)
    results = toys.evaluate(benchmark, generator, {"w": np.zeros(1)}, tmp_path, splits=("valid",),
                            progress=False)
    summary = results["summary"]["valid"]["avatar"]
    assert set(summary["RPCC_h"]["pairs"]) == PAIRS
    assert summary["transfer_mean_s"]["pairs"]["1 to 2"]["n"] == 3  # in turn: 1, 2, 3, 1
    text = tables.table(results)
    lines = text[text.index("\n  RPCC_h "):].splitlines()[2:8]
    assert [line.split("  ")[2] for line in lines] == sorted(PAIRS)
    samples = runner.samples(benchmark, generator, {"w": np.zeros(1)}, ("valid",), 1)
    assert "RPCC_h, speaker 3 to 1" in page.write(tmp_path, results, samples).read_text()


def test_only_what_has_faces_has_pictures(benchmark):
    """Puppets are known in every variant: of sound alone there is nothing to draw."""
    mel, latents = np.zeros((8, 3, 80), np.float32), np.zeros((2, 3, WIDTH, 1, 1), np.float32)
    whose = {"identity": np.zeros((3, 12), np.float32)}
    assert benchmark.pictures({"mel": mel}, whose) is None
    drawer = Drawer()
    drawn = side_by_side(drawer, {"mel": mel, "motion": latents[..., 0, 0]}, np.arange(3.0))
    assert drawn.shape == (2, 8, 24, 3) and drawn[0, 0, ::8, 0].tolist() == [0, 1, 2]
    assert side_by_side(drawer, {"mel": mel, "motion": latents[..., 0, 0]}) is None
