"""DNSMOS, against numbers that the package speechmos gave, and its metrics."""

import importlib.util
import os
import pathlib
import types

import numpy as np
import pytest

from avjax.errors import UserError
from eval.metrics.judged import dnsmos as metrics
from eval.networks.files import Networks
from eval.networks.speech import dnsmos, dnsmos_p808
from tests.encoders.onnx_files import onnx
from tests.golden_files import cases

recorded = pytest.mark.parametrize("record", cases("dnsmos", "p808/mel"))


def heard(record, name):
    """A recorded clip: so many samples of the recorded voice, which is repeated."""
    return np.resize(record["wav_int16"], int(record[f"{name}/samples"])) / 32768


@recorded
def test_the_picture_of_p808_is_the_published_one(record):
    found = dnsmos_p808.log_mel(dnsmos.prepared(heard(record, "short"), 16000)[0])
    assert found.shape == (dnsmos_p808.FRAMES, dnsmos_p808.BANDS)
    np.testing.assert_allclose(found[::int(record["p808/stride"])], record["p808/mel"], atol=1e-5)


def test_windows_are_those_that_the_published_code_takes():
    """A second apart; not those that begin at seconds 7 to 23, which it loses by rounding."""
    wave_N = np.arange(30 * 16000, dtype=np.float32)
    found = dnsmos.windows(wave_N)
    assert found[:, 0].tolist() == [k * 16000 for k in range(7)]
    assert dnsmos.windows(np.resize(wave_N, 34 * 16000))[:, 0].tolist() == [
        *(k * 16000 for k in range(7)), 24 * 16000]
    doubled = dnsmos.windows(wave_N[:3 * 16000])  # until it is 12 s: windows at 0, 1 and 2
    assert doubled.shape == (3, 144160) and doubled[1, 2 * 16000] == 0
    assert dnsmos.prepared(np.zeros(9), 16000) is None is dnsmos.prepared(np.zeros(0), 16000)
    assert abs(dnsmos.prepared(wave_N, 16000)).max() == 1


def installed(name: str) -> pathlib.Path:
    """A file of the package speechmos; skips the running test without it."""
    pytest.importorskip("onnxruntime")
    if importlib.util.find_spec("speechmos") is None:
        pytest.skip("speechmos is not installed")
    return Networks(os.path.dirname(__file__)).paths[name]


@recorded
@pytest.mark.parametrize("name", ["short", "long"])
def test_scores_equal_the_published_ones(record, name):
    wave_N = heard(record, name)
    found = dnsmos.load(installed("dnsmos"))(wave_N, 16000)
    found["P808"] = dnsmos_p808.load(installed("dnsmos_p808"))(wave_N, 16000)
    assert found.keys() == {"SIG", "BAK", "OVRL", "P808"}
    for kind, score in found.items():
        assert score == pytest.approx(float(record[f"{name}/{kind}"]), abs=2e-5), kind


class Counting:
    """Stands for a network: what it is given of each window, and how many at once."""

    def __init__(self):
        self.asked = []

    def __call__(self, some):
        found = [(float(np.mean(row)), float(np.max(row)), float(row.size)) for row in some]
        self.asked.append(len(found))
        return np.array(found).reshape(-1, 3)


def test_windows_of_several_sounds_go_together_and_each_gets_its_own():
    """Sounds of one window and of several, one of them silent."""
    rng = np.random.default_rng(0)
    waves = [rng.normal(size=n * 1000) / 9 for n in (40, 200, 3, 170)]
    waves.insert(2, np.zeros(5000))
    single, several = (dnsmos.Windowed(Counting(), lambda x_P3: x_P3.mean(0).tolist())
                       for _ in range(2))
    alone = [single(wave_N, 16000) for wave_N in waves]
    several.ahead(waves, 16000)
    assert [several(wave_N, 16000) for wave_N in waves] == alone and alone[2] is None
    assert several._network.asked == [sum(single._network.asked)]  # each once, all in one go


@recorded
def test_scores_do_not_depend_on_what_goes_together(record):
    waves = [heard(record, name) for name in ("short", "long")]
    waves.append(waves[0][::-1])
    for module, name in ((dnsmos, "dnsmos"), (dnsmos_p808, "dnsmos_p808")):
        single, several = module.load(installed(name)), module.load(installed(name))
        several.ahead(waves, 16000)
        several._network = None  # all is known
        for wave_N in waves:
            ours, theirs = several(wave_N, 16000), single(wave_N, 16000)
            assert ours == pytest.approx(theirs, abs=1e-5)


def test_another_network_is_told(tmp_path):
    pytest.importorskip("onnxruntime")
    path = tmp_path / "model_v8.onnx"
    for content in (b"", b"\xff" * 40, onnx({"w": np.zeros(3)})):
        path.write_bytes(content)
        with pytest.raises(UserError, match="this is not DNSMOS.*model_v8.onnx"):
            dnsmos_p808.load(path)
    with pytest.raises(UserError, match="this is not DNSMOS .P.808.*900, 120.*144160"):
        dnsmos_p808.load(installed("dnsmos"))


def test_scores_of_a_case_and_of_silence():
    """Without the package's networks: what they say goes to its own row."""
    said = {"SIG": 3.5, "BAK": 4.0, "OVRL": 3.0}
    networks = {"dnsmos": lambda wave_N, rate: said if np.ptp(wave_N) else None,
                "dnsmos_p808": lambda wave_N, rate: 2.5 if np.ptp(wave_N) else None}
    benchmark = types.SimpleNamespace(networks=networks, sample_rate=16000)
    for wave_N, found in ((np.arange(9), said | {"P808": 2.5}), (np.zeros(9), dict.fromkeys(
            ("SIG", "BAK", "OVRL", "P808")))):
        case = types.SimpleNamespace(benchmark=benchmark,
                                     signals=types.SimpleNamespace(waveform=wave_N))
        assert metrics._p835(case) | metrics._p808(case) == {
            f"DNSMOS_{name}": score for name, score in found.items()}
