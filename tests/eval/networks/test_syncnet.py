"""SyncNet beside its recorded numbers, and the metrics that it gives."""

import itertools
import types

import jax
import numpy as np
import pytest

from avjax.errors import UserError
from avjax.sharding import rows
from avjax.sharding.mesh import make_mesh
from avjax.weights.reader import read_state_dict
from avjax.weights.torch_writer import write_torch_zip
from eval.metrics.judged import syncnet as metric
from eval.networks import syncnet
from eval.networks.pictures import face_tracks
from tests import golden_files
from tests.eval import toys

FILE = "syncnet_v2.model"
NEAR = 1e-5


@pytest.fixture(scope="module")
def recorded():
    return golden_files.some("syncnet")


@pytest.fixture(scope="module")
def folder(recorded, tmp_path_factory):
    """Of the weights as they are published."""
    folder = tmp_path_factory.mktemp("syncnet")
    write_torch_zip(folder / FILE, {name: np.array(x) for name, x in
                                    golden_files.under(recorded, "sd/").items()})
    return folder


@pytest.fixture(scope="module")
def network(folder):
    """On one device, a block at a time: the tests' eight would take eight."""
    return syncnet.SyncNet(read_state_dict(folder / FILE), together=1, mesh=rows.one_device())


def pictures_of(recorded) -> np.ndarray:
    """(clips, 5, 224, 224, 3)."""
    small = recorded["lip/image16"]
    times = syncnet.SIZE // small.shape[-1]
    return small.repeat(times, 3).repeat(times, 4).transpose(0, 2, 3, 4, 1)


def test_lips_are_the_recorded_ones_at_every_layer(recorded, network):
    pictures = pictures_of(recorded)
    found = np.concatenate([network.lips(iter(x)) for x in pictures])
    assert golden_files.relative_error(found, recorded["lip/embedding"]) < NEAR
    params = syncnet.import_params(golden_files.under(recorded, "sd/"))
    maps = [np.concatenate(layer) for layer in zip(*(
        syncnet.convolved(params, x.astype(np.float32), syncnet.LIPS) for x in pictures),
        strict=True)]
    for layer, name in ((1, "after_pool2"), (4, "after_pool3"), (5, "features")):
        theirs = recorded[f"lip/{name}"]
        ours = np.moveaxis(maps[layer], -1, 1).reshape(theirs.shape)
        assert golden_files.relative_error(ours, theirs) < NEAR, name


def test_sound_is_the_recorded_one_at_every_layer(recorded, network):
    mfcc_WMK = recorded["audio/mfcc"][:, 0]
    found = network.sound(mfcc_WMK)
    assert golden_files.relative_error(found, recorded["audio/embedding"]) < NEAR
    params = syncnet.import_params(golden_files.under(recorded, "sd/"))
    maps = list(syncnet.convolved(params, mfcc_WMK[..., None], syncnet.AUDIO))
    for layer, name in ((1, "after_block2"), (5, "cnn_out")):
        theirs = recorded[f"audio/{name}"]
        ours = np.moveaxis(maps[layer], -1, 1).reshape(theirs.shape)
        assert golden_files.relative_error(ours, theirs) < NEAR, name


def test_the_batch_size_decides_no_number(recorded):
    """Blocks on one device, several blocks at once, and over several devices; sound over all
    eight."""
    pictures = list(itertools.islice(itertools.cycle(np.concatenate(pictures_of(recorded))), 13))
    sound = np.resize(recorded["audio/mfcc"][:, 0], (11, 13, 20))
    state = golden_files.under(recorded, "sd/")
    one, more, spread, everywhere = (syncnet.SyncNet(state, together=n, mesh=mesh) for n, mesh in (
        (1, rows.one_device()), (3, rows.one_device()),
        (1, make_mesh({"data": 2}, jax.devices()[:2])), (1, None)))
    lips, said = one.lips(pictures), one.sound(sound)
    assert len(lips) == 9 and np.ptp(lips, axis=0).max() > 1e-3
    for other in (more, spread):
        assert golden_files.relative_error(other.lips(pictures), lips) < NEAR
    for other in (more, everywhere):
        assert golden_files.relative_error(other.sound(sound), said) < NEAR


def test_mfcc_is_the_recorded_one(recorded):
    wave = recorded["mfcc/wav_int16"]
    power = syncnet.spectrum(wave)
    filters = syncnet.filterbank()
    np.testing.assert_allclose(filters, recorded["mfcc/filterbank"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(np.maximum(power.sum(1), syncnet.EPS), recorded["mfcc/energy"],
                               rtol=1e-9)
    mfcc = syncnet.mfcc(wave)
    np.testing.assert_allclose(mfcc, recorded["mfcc/mfcc"], rtol=1e-9, atol=1e-9)
    count = syncnet.count_windows(10**6, len(wave))
    assert count == recorded["mfcc/n_windows"]
    windows = syncnet.sound_windows(mfcc, count)
    np.testing.assert_allclose(windows[-1], recorded["mfcc/last_window"], rtol=1e-9, atol=1e-9)
    assert syncnet.count_windows(7, len(wave)) == 2 and syncnet.count_windows(4, len(wave)) == 0


@pytest.mark.parametrize("shifts", [15, 10])
def test_distances_and_scores_are_the_recorded_ones(recorded, shifts):
    theirs = golden_files.under(recorded, f"lse{shifts}/")
    found = syncnet.distances(recorded["lse/video_embeddings"], recorded["lse/audio_embeddings"],
                              shifts)
    assert golden_files.relative_error(found, theirs["dists"]) < NEAR
    scores = syncnet.scores(found)
    assert scores == {"LSE_D": pytest.approx(float(theirs["lse_d"]), rel=NEAR),
                      "LSE_C": pytest.approx(float(theirs["lse_c"]), rel=NEAR),
                      "LSE_offset": int(theirs["offset"])}


def test_pictures_that_come_late_have_a_positive_offset():
    points = np.random.default_rng(0).normal(size=(40, 8))
    late = np.concatenate([points[:1].repeat(2, 0), points[:-2]])
    assert syncnet.scores(syncnet.distances(late, points))["LSE_offset"] == 2


def test_another_file_is_told_by_every_array(recorded):
    state = dict(golden_files.under(recorded, "sd/"))
    del state["netcnnlip.5.running_var"]
    state["netfcaud.3.weight"] = state["netfcaud.3.weight"][:, 1:]
    state["netcnnface.0.bias"] = np.zeros(3)
    with pytest.raises(UserError) as error:
        syncnet.SyncNet(state, where="some.model")
    for part in ("some.model", "missing: netcnnlip.5.running_var", "left over: netcnnface.0.bias",
                 "netfcaud.3.weight"):
        assert part in str(error.value)


def test_pictures_are_taken_at_25_a_second():
    taken = list(metric.nearest(iter(range(13)), 13, 30))
    assert taken == [0, 1, 2, 4, 5, 6, 7, 8, 10, 11]  # of 0, 1.2, 2.4, ...
    assert list(metric.nearest(iter(range(4)), 4, 25)) == [0, 1, 2, 3]
    assert metric.heard(np.float32([0, 0.5, 2, -2]), 16000).tolist() == [0, 16384, 32767, -32768]
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 200
    assert metric.seen(red).shape == (224, 224, 3) and metric.seen(red)[0, 0].tolist() == [
        0, 0, 200]


def test_a_face_is_tracked_and_cropped():
    """Boxes of 120 pixels that move a pixel a frame, with a jump of one frame, a gap, and somebody
    who is too small."""
    boxes = [[(50 + k, 40, 170 + k, 160), (300, 300, 340, 340)] for k in range(130)]
    boxes[60][0] = (50, 40, 190, 160)
    boxes[80] = boxes[81] = []
    track, = face_tracks.tracks([[], *boxes])
    assert track.first == 1 and len(track) == 130
    assert track.x[10:120] == pytest.approx(110 + np.arange(10, 120), abs=1)
    assert track.y[7:-7] == pytest.approx(100) and track.half[7:-7] == pytest.approx(60)
    assert face_tracks.tracks(boxes[:100]) == []  # more than 100 are asked for
    away = [boxes[0]] * 60 + [[]] * 27 + [boxes[0]] * 60  # two tracks, both too short
    assert face_tracks.tracks(away) == []
    picture = np.arange(200 * 200 * 3).reshape(200, 200, 3) % 251
    crop = face_tracks.cropped(picture, 100, 90, 50)
    np.testing.assert_array_equal(crop, picture[40:180, 30:170])
    crop = face_tracks.cropped(picture, 20, 90, 50)
    assert crop.shape == (140, 140, 3) and (crop[:, :50] == face_tracks.GREY).all()


def test_the_cropped_face_is_heard_with_its_own_sound(network, monkeypatch):
    """A track that begins in the middle: its crops with the sound from there on."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 255, (12, 160, 160, 3), np.uint8)
    track = face_tracks.Track(3, *(np.full(9, x) for x in (80.0, 70.0, 50.0)))
    monkeypatch.setattr(metric, "face_track", lambda pictures: track)
    wave = rng.uniform(-0.5, 0.5, 16000).astype(np.float32)
    case = types.SimpleNamespace(
        signals=types.SimpleNamespace(waveform=wave), pictures=lambda _: (12, iter(pictures)),
        benchmark=types.SimpleNamespace(networks={"syncnet": network}, sample_rate=16000,
                                        decoder=types.SimpleNamespace(fps=25)))
    crops = [metric.seen(face_tracks.cropped(x, 80, 70, 50)) for x in pictures[3:]]
    expected = network(crops, 9, metric.heard(wave, 16000)[3 * 640:12 * 640])
    assert metric._score_face(case) == pytest.approx(
        {f"{name}_face": x for name, x in expected.items()}, rel=NEAR)


def test_a_benchmark_scores_pictures_and_sound(folder, network, tmp_path):
    dataset = toys.write_corpus(tmp_path / "toy")
    without = toys.benchmark(dataset)
    assert f"needs {FILE}" in without.without_network["LSE_C"]
    benchmark = toys.benchmark(dataset, networks=str(folder))
    benchmark.load_networks()
    assert isinstance(benchmark.networks._loaded["syncnet"], syncnet.SyncNet)
    benchmark.networks._loaded["syncnet"] = network
    names = {"LSE_C", "LSE_D", "LSE_offset"}
    truth = benchmark.truth("valid", 0)
    row = benchmark.score("valid", 0, truth)
    assert names <= row.keys() and np.isfinite([row[name] for name in names]).all()
    shades = benchmark.decoder.frames(truth.streams)
    pictures = [metric.seen(x) for x in metric.nearest(shades, len(shades), 30)]
    sound = metric.heard(truth.waveform, benchmark.sample_rate)
    expected = network(pictures, len(pictures), sound)
    assert {name: row[name] for name in names} == pytest.approx(expected, rel=NEAR)
    short = benchmark.read({k: x[:10] for k, x in benchmark.source("valid")[0].items()
                            if k in benchmark.streams})
    assert not names & benchmark.score("valid", 0, short).keys()
    recipe = benchmark.recipes["LSE_D"]
    assert recipe["protocol"].startswith("A") and recipe["networks"]["syncnet"]["file"] == FILE
