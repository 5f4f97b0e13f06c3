"""Sounds that networks hear together: equal to each by itself, whatever the batch and the devices;
and that an evaluation lets them."""


import jax
import numpy as np
import pytest

from avjax.sharding import rows
from avjax.sharding.mesh import make_mesh
from eval.metrics.judged import utmos as metric
from eval.networks import files
from eval.networks.speech import utmos, voxsim, wav2vec2_ctc
from eval.networks.speech.kept import Kept
from eval.run import runner
from tests.eval import toys
from tests.eval.test_speech_networks import write
from tests.golden_files import some


def test_what_is_known_is_not_heard_again_and_the_oldest_is_forgotten():
    asked = []

    def lengths(waves):
        asked.append([len(x) for x in waves])
        return asked[-1]

    kept = Kept(lengths, most=2)
    one, two, three = (np.zeros(n, np.float32) for n in (1, 2, 3))
    assert kept([one, two, one]) == [1, 2, 1] and asked == [[1, 2]]
    assert kept([two, three]) == [2, 3] and asked[1:] == [[3]]
    assert kept([one]) == [1] and asked[2:] == [[1]]


def test_scores_do_not_depend_on_what_goes_together_nor_on_devices(tmp_path, monkeypatch):
    record = some("utmos")
    path = write(record, tmp_path / "utmos.pt")
    waves = [*record["odd/wav"], *record["even/wav"], record["odd/wav"][0][:5000]]
    single = utmos.Utmos(path)
    alone = [single([wave_N], 16000)[0] for wave_N in waves]
    monkeypatch.setattr(rows, "at_once", lambda rows: rows)
    together = utmos.Utmos(path, make_mesh({"data": 4}, jax.devices()[:4]))
    together.ahead(waves, 16000)
    np.testing.assert_allclose(together(waves[::-1], 16000), alone[::-1], atol=1e-5)


def devices(monkeypatch, count):
    """Batches as on that many accelerators."""
    monkeypatch.setattr(rows, "at_once", lambda rows: rows)
    mesh = make_mesh({"data": count}, jax.devices()[:count])
    monkeypatch.setattr(rows, "devices", lambda: mesh)


def test_words_do_not_depend_on_what_goes_together_nor_on_devices(tmp_path, monkeypatch):
    """Letters of several sounds, of two lengths, one of them silent, another too short; the logits
    behind them."""
    monkeypatch.setattr(wav2vec2_ctc, "normaliser", lambda: str.title)
    record = some("wav2vec2_ctc")
    path = write(record, tmp_path / "ctc.pth")
    waves = [*record["wav"], np.resize(record["wav"][0], 20000), np.zeros(9000, np.float32),
             record["wav"][0][:100]]
    single = wav2vec2_ctc.load(path)
    alone = [single.spelled([wave_N], 16000)[0] for wave_N in waves]
    logits = [single._network(wave_N) for wave_N in waves[:3]]
    devices(monkeypatch, 4)
    words = wav2vec2_ctc.load(path)
    words.ahead(waves, 16000)
    for ours, theirs in zip(words._network.many(waves[:3]), logits, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    monkeypatch.setattr(words._network, "many", None)  # all is known
    assert words.spelled(waves[::-1], 16000) == alone[::-1] and alone[3:] == ["", ""]
    assert any(alone) and words(waves[0], 16000) == alone[0].title()


def test_voices_of_voxsim_do_not_depend_on_what_goes_together(tmp_path, monkeypatch):
    record = some("wavlm_ecapa")
    path = write(record, tmp_path / "wavlm_ecapa.model")
    monkeypatch.setattr(voxsim, "PIECE", 4000)
    waves = [*record["wav"], record["wav"][0][:3000], np.zeros(5000, np.float32)]
    pairs = [(a, b) for a in waves for b in waves]
    single = voxsim.load(path)
    alone = [single(a, b, 16000) for a, b in pairs]
    devices(monkeypatch, 2)
    rater = voxsim.load(path)
    rater.ahead(waves, 16000)
    monkeypatch.setattr(rater._encoder, "many", None)  # all is known
    together = [rater(a, b, 16000) for a, b in pairs]
    assert [x is None for x in together] == [x is None for x in alone]
    np.testing.assert_allclose([x for x in together if x is not None],
                               [x for x in alone if x is not None], atol=1e-5)


class Judge:
    """Stands for a network; notes how many sounds it heard at once."""

    def __init__(self):
        self.heard, self._kept = [], Kept(self._made)

    def __call__(self, waves, rate):
        return self._kept([np.asarray(x, np.float32) for x in waves])

    ahead = __call__

    def _made(self, waves):
        self.heard.append(len(waves))
        return [float(np.abs(x).mean()) for x in waves]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return toys.write_corpus(tmp_path_factory.mktemp("together") / "corpus")


def scored(dataset, folder, judge, broken=()):
    """Rows of an evaluation by the judge in UTMOS's place, {id: score of the truth}."""
    (folder / "networks").mkdir(parents=True)
    (folder / "networks" / files.TABLE["utmos"].files[0]).write_bytes(b"")
    benchmark = toys.benchmark(dataset, networks=str(folder / "networks"))
    benchmark.networks._loaded["utmos"] = judge
    benchmark.metrics = [m for m in benchmark.metrics if m.score is metric._score]
    benchmark.models, benchmark.baselines = {}, ("truth",)
    whole = benchmark.baseline

    def baseline(variant, split, index):
        if index in broken:
            raise ValueError("cannot be decoded")
        return whole(variant, split, index)

    benchmark.baseline = baseline
    generator = type("Generator", (), {"seed": 0, "system": toys.System(), "seconds": {}})()
    run = runner.Run(benchmark, generator, {}, folder / "out", splits=["valid"])
    run.score(progress=False)
    found = {i: run.rows.get(run.key("valid", "truth", i)) for i in range(6)}
    return {i: row and row[0]["UTMOS"] for i, row in found.items()}, run


def test_an_evaluation_hears_several_together_and_scores_each_alone(dataset, tmp_path, monkeypatch):
    one, several = Judge(), Judge()
    alone, _ = scored(dataset, tmp_path / "alone", one)
    monkeypatch.setattr(runner, "at_once", lambda rows: 4)
    together, run = scored(dataset, tmp_path / "together", several, broken=(2,))
    assert one.heard == [1] * 6 and several.heard in ([3, 2], [4, 1])
    assert together == alone | {2: None}
    reason = run.rows.failed[run.key("valid", "truth", 2)]
    assert "cannot be decoded" in reason
