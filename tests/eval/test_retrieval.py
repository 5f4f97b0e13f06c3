"""Face-to-voice retrieval: by hand, chance, groups, identities."""

import numpy as np
import pytest

from eval.metrics import retrieval


def test_by_hand():
    true = np.array([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    # the third points to the first
    predicted = np.array([[2.0, 0.1], [0.9, 1], [1, 0.1], [0.0, -9]])
    rank, candidates = retrieval.ranks(predicted, true)
    assert rank.tolist() == [0, 0, 3, 0] and candidates.tolist() == [4] * 4
    out = retrieval.scores(predicted, true, at=(1, 3))
    assert out["R@1"] == 0.75 and out["R@3"] == 0.75 and out["chance@3"] == 0.75 and out[
        "times_chance"] == 3
    assert out["mean_rank"] == pytest.approx(1.75) and out["identities"] == 4
    wanted = np.mean([2 / np.hypot(2, 0.1), 1 / np.hypot(0.9, 1), -1 / np.hypot(1, 0.1), 1])
    assert out["cosine"] == pytest.approx(wanted)


def test_random_predictions_are_at_chance_and_constant_ones_lose():
    rng = np.random.default_rng(0)
    true, predicted = rng.normal(size=(2, 400, 8))
    assert retrieval.scores(predicted, true, at=(20,))["R@20"] == pytest.approx(0.05, abs=0.03)
    assert retrieval.scores(np.ones((400, 8)), np.ones((400, 8)))["R@1"] == 0  # ties count against
    assert retrieval.scores(true, true)["R@1"] == 1


def test_groups_take_the_easy_part_away():
    """A prediction that knows the group alone."""
    rng = np.random.default_rng(0)
    groups = np.repeat(["a", "b"], 30)
    centre = np.where(groups == "a", 5.0, -5.0)[:, None] * np.ones(6)
    true, predicted = centre + rng.normal(size=(60, 6)), centre + rng.normal(size=(60, 6))
    plain, same = retrieval.scores(predicted, true), retrieval.scores(predicted, true,
                                                                      groups=list(groups))
    assert plain["chance@1"] == pytest.approx(1 / 60) and same["chance@1"] == pytest.approx(1 / 30)
    assert plain["R@1"] == same["R@1"] and plain["times_chance"] == pytest.approx(2
                                                                                  * same[
                                                                                      "times_chance"])


def test_means_over_an_identity():
    mean, names = retrieval.by_identity(np.array([[1.0], [5], [3]]), ["ben", "anna", "ben"])
    assert names == ["ben", "anna"] and mean.tolist() == [[2.0], [5.0]]


def test_degradations():
    portraits = np.random.default_rng(0).integers(0, 255, (2, 16, 16, 3), np.uint8)
    out = dict(retrieval.degraded(portraits))
    assert list(out) == ["clean", "blur_0.5", "blur_1", "blur_2", "rotate_30", "rotate_-30"]
    assert np.array_equal(out["clean"], portraits) and all(x.shape == portraits.shape
                                                           for x in out.values())
    contrast = [out[name].astype(float).std() for name in ("clean", "blur_0.5", "blur_1", "blur_2")]
    assert all(a > b for a, b in zip(contrast, contrast[1:], strict=False))


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="one prediction an identity"):
        retrieval.scores(np.ones((3, 2)), np.ones((4, 2)))
