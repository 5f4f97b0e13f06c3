"""k-means in a stream and on a mesh, and centroids from a file."""

import jax
import numpy as np
import pytest

from avjax.errors import UserError
from avjax.sharding.mesh import make_mesh
from avjax.signal import kmeans, kmeans_stream

UNITS, WIDTH = 6, 5


@pytest.fixture
def small(monkeypatch):
    """A reservoir of a fraction of the frames, several blocks, several chunks of each."""
    for name, value in (("RESERVOIR", 400), ("FRAMES_A_UNIT", 1), ("BLOCK", 300),
                        ("TABLE", 50 * UNITS)):
        monkeypatch.setattr(kmeans_stream, name, value)
    monkeypatch.setattr(kmeans, "TABLE", 50 * UNITS)
    kmeans_stream._seeds.cache_clear()


@pytest.fixture(scope="module")
def clusters():
    """1500 frames around six centres, far from the origin, and which one each belongs to."""
    rng = np.random.default_rng(0)
    which_N = rng.integers(0, UNITS, 1500)
    centre_KD = 30 + 3 * rng.standard_normal((UNITS, WIDTH))
    return (centre_KD[which_N] + 0.3
            * rng.standard_normal((1500, WIDTH))).astype(np.float32), which_N


def mesh_of(devices):
    return make_mesh({"data": devices // 2, "fsdp": 2}, jax.devices()[:devices])


def in_blocks(x_ND, *sizes):
    return lambda: iter(np.split(x_ND, np.cumsum(sizes)))


def test_a_stream_on_a_mesh_finds_the_clusters(small, clusters):
    x_ND, which_N = clusters
    mean_KD = np.stack([x_ND[which_N == k].astype(np.float64).mean(0) for k in range(UNITS)])
    lines = []
    found = {}
    for name, blocks, mesh in (("four", in_blocks(x_ND, 700, 1, 500), mesh_of(4)),
                               ("cut", in_blocks(x_ND, 33, 900), mesh_of(4)),
                               ("one", in_blocks(x_ND, 700), None)):
        found[name] = kmeans_stream.fit(blocks, UNITS, seed=1, iterations=0 if name == "cut" else 5,
                                        passes=8, mesh=mesh,
                                        report=lines.append)
        order = [int(np.square(mean_KD - c).sum(1).argmin()) for c in found[name]]
        assert sorted(order) == list(range(UNITS)), name
        # of all frames, not of the reservoir
        np.testing.assert_allclose(found[name], mean_KD[order], atol=2e-5)
    again = kmeans_stream.fit(in_blocks(x_ND, 1, 2, 1000), UNITS, seed=1, iterations=5, passes=8,
                              mesh=mesh_of(4))
    np.testing.assert_array_equal(found["four"], again)
    # it stops when nothing changes
    assert "pass 1 of at most 8" in lines[0] and "0 empty" in lines[-1] and len(lines) < 24


def test_empty_clusters_are_seeded_again(small, clusters):
    x_ND, _ = clusters
    centroids_KD = np.full((UNITS, WIDTH), 1e4, np.float32) + np.arange(UNITS)[:, None]
    centroids_KD[2] = x_ND[0]
    mesh, key, seen = mesh_of(4), jax.random.key(0), []
    size = kmeans_stream._equal_chunks(300, UNITS, mesh)
    for number in range(4):
        centroids_KD, distance, empty = kmeans_stream._pass([x_ND], size, centroids_KD,
                                                            jax.random.fold_in(key, number), mesh)
        seen.append((distance, empty))
    assert seen[0][1] == UNITS - 1 and seen[1][1] == 0 and seen[3][0] < 0.2 * seen[0][0]
    np.testing.assert_allclose(seen[0][0], np.square(x_ND - x_ND[0]).sum(1).mean(), rtol=1e-4)
    # more empty centroids than candidates: the rest stay
    sums, counts = np.zeros((3, 1)), np.zeros(3, np.int32)
    np.testing.assert_array_equal(kmeans_stream._update(np.float32([[1], [2], [3]]), sums, counts,
                                                        np.float32([[7]])),
                                  [[7], [2], [3]])


def test_the_reservoir_is_fair_and_blind_to_blocks():
    x_ND = np.arange(6000, dtype=np.float32)[:, None]
    drawn, whole = kmeans_stream._reservoir(in_blocks(x_ND, 10, 4000, 1)(), 500, seed=3)
    assert len(drawn) == 500 and not whole and (np.diff(drawn[:, 0]) > 0).all()
    counts = np.histogram(drawn, bins=5, range=(0, 6000))[0]
    assert counts.min() > 70 and counts.max() < 130
    np.testing.assert_array_equal(drawn,
                                  kmeans_stream._reservoir(np.split(x_ND, 60), 500, seed=3)[0])
    assert (drawn != kmeans_stream._reservoir([x_ND], 500, seed=4)[0]).any()
    everything, whole = kmeans_stream._reservoir([x_ND[:7], x_ND[7:9]], 9, seed=0)
    assert whole and len(everything) == 9


def test_assignment_never_holds_the_whole_table(small, clusters):
    x_ND = clusters[0] - 30
    centroids_KD = x_ND[::9][:40]
    expected = np.square(x_ND[:, None].astype(np.float64) - centroids_KD).sum(-1).argmin(1)
    np.testing.assert_array_equal(kmeans.assign(x_ND, centroids_KD), expected)
    traced = jax.jit(kmeans.nearest)
    np.testing.assert_array_equal(traced(x_ND, centroids_KD), expected)
    shapes = [v.aval.size for e in jax.make_jaxpr(kmeans.nearest)(x_ND, centroids_KD).eqns
              for v in e.outvars]
    assert max(shapes) < len(x_ND) * len(centroids_KD) / 4
    assert kmeans.assign(x_ND[:0], centroids_KD).shape == (0,)


def test_bad_frames_are_refused():
    x_ND = np.ones((100, 4), np.float32)
    for blocks, words in (([x_ND], "too few frames.*at least 2 distinct; found: 1 of 100"),
                          ([], "no frames"),
                          ([x_ND, x_ND[:, :3]], r"expected: \(n, 4\).*found: \(100, 3\)"),
                          ([x_ND * np.nan], "NaN")):
        with pytest.raises(UserError, match=words):
            kmeans_stream.fit(lambda blocks=blocks: blocks, 2)


def test_published_centroids(tmp_path):
    table = np.random.default_rng(0).standard_normal((10, 4)).astype(np.float16)
    np.save(tmp_path / "good.npy", table)
    read = kmeans.read_centroids(tmp_path / "good.npy", 4)
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, table)
    with pytest.raises(UserError, match=r"another width.*good.npy.*\(units, 1280\).*found: \(10, "
                                        r"4\)"):
        kmeans.read_centroids(tmp_path / "good.npy", 1280)
    np.save(tmp_path / "flat.npy", table[0])
    np.save(tmp_path / "bad.npy", table * np.nan)
    np.save(tmp_path / "object.npy", np.array([{"a": 1}], object), allow_pickle=True)
    for name, words in (("flat", r"float16 \(4,\)"), ("bad", "not a table"), ("object", "corrupt"),
                        ("none", "no such")):
        with pytest.raises(UserError, match=words):
            kmeans.read_centroids(tmp_path / f"{name}.npy")
