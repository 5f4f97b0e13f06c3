"""Principal components: exact, orthonormal, the same however the data arrive; eigenfaces on top."""

import numpy as np
import pytest

from avjax.codecs import eigenface
from avjax.errors import UserError
from avjax.signal import pca


def low_rank(count=200, size=30, rank=4, seed=0):
    rng = np.random.default_rng(seed)
    scores = rng.standard_normal((count, rank)) * [5, 3, 2, 1]
    return scores @ rng.standard_normal((rank, size)) + rng.uniform(size=size)


@pytest.mark.parametrize("count", [200, 20])  # by covariance, and by the samples' Gram matrix
def test_exact_on_low_rank_data(count):
    data = low_rank(count)
    codec = pca.fit(data.astype(np.float32), 4)
    codes = codec.encode(data)
    np.testing.assert_allclose(codec.decode(codes), data, atol=2e-4)
    np.testing.assert_allclose(codec.components @ codec.components.T, np.eye(4), atol=1e-5)
    np.testing.assert_allclose(codes.mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(codes.std(0), 1, atol=1e-3)
    assert codec.explained == pytest.approx(1.0, abs=1e-4)


def test_matches_the_singular_value_decomposition():
    data = low_rank() + 0.1 * np.random.default_rng(1).standard_normal((200, 30))
    codec = pca.fit(data, 3)
    _, values, vectors = np.linalg.svd(data - data.mean(0), full_matrices=False)
    np.testing.assert_allclose(np.abs((codec.components * vectors[:3]).sum(1)), 1, atol=1e-5)
    np.testing.assert_allclose(codec.std, values[:3] / np.sqrt(200), rtol=1e-5)
    assert codec.explained == pytest.approx((values[:3] ** 2).sum() / (values**2).sum(), rel=1e-5)


def test_streaming_does_not_depend_on_the_batches():
    data = low_rank() + 100.0  # a large mean would ruin a naive sum of squares
    one, many = pca.Moments(30), pca.Moments(30)
    one.add(data)
    for part in np.split(data, [1, 7, 7, 150]):
        many.add(part)
    np.testing.assert_allclose(many.scatter_DD, one.scatter_DD, rtol=1e-9, atol=1e-6)
    np.testing.assert_allclose(many.codec(3).components, one.codec(3).components, atol=1e-5)


def test_refuses_more_components_than_the_data_have():
    with pytest.raises(UserError, match="fewer directions"):
        pca.fit(low_rank(), 5)


def faces(count=40, size=16):
    rng = np.random.default_rng(0)
    base, change = rng.uniform(60, 190, (size, size, 3)), rng.uniform(-30, 30, (3, size, size, 3))
    return np.clip(base + np.tensordot(rng.uniform(-1, 1, (count, 3)), change, 1), 0,
                   255).astype(np.uint8)


def test_eigenface_round_trip_and_storage(tmp_path):
    crops = faces()
    codec = eigenface.fit(crops, 6)
    np.savez(tmp_path / "face.npz",
             **eigenface.pack({"a": codec, "b/c": eigenface.fit(255 - crops, 6)}))
    with np.load(tmp_path / "face.npz") as stored:
        back = eigenface.unpack(dict(stored), "a")
        with pytest.raises(UserError, match="one of a, b/c"):
            eigenface.unpack(dict(stored), "d")
        other = eigenface.unpack(dict(stored), "b/c")
        assert np.abs(other.decode(other.encode(255 - crops)).astype(int) + crops - 255).max() <= 4
    codes = back.encode(crops)
    np.testing.assert_array_equal(codes, codec.encode(crops))
    assert codes.shape == (40, 6) and np.abs(back.decode(codes).astype(int) - crops).max() <= 4
    np.testing.assert_allclose(back.encode(crops, chunk=7), codes, atol=1e-5)


def test_eigenface_refuses():
    with pytest.raises(UserError, match="too few"):
        eigenface.fit(faces(5), 6)
    with pytest.raises(UserError, match="another size"):
        eigenface.fit(faces(), 6).encode(faces(size=8))
