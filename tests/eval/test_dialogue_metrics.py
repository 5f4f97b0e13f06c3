"""Turn-taking and listening against recorded values, and against cases checked by hand."""

import numpy as np
import pytest

from avjax.encoders.voice_activity import energy, turn_taking
from avjax.signal.runs import intervals
from eval.metrics import listener, turns
from tests.golden_files import cases, numbered


@pytest.fixture(scope="module", params=cases("metrics"))
def recorded(request):
    return request.param


def test_turn_events_equal_recorded(recorded):
    vads, total = numbered(recorded, "turns/vad_"), int(recorded["turns/total_ms"])
    for channel, vad in enumerate(vads):
        np.testing.assert_array_equal(turn_taking.ipus(vad), recorded[f"turns/ipu_{channel}"])
    found = turn_taking.events(vads, total)
    for name in ("pause", "gap", "overlap"):
        np.testing.assert_array_equal(found[name], recorded[f"turns/{name}"])
    np.testing.assert_array_equal(found["turn"], np.concatenate(numbered(recorded, "turns/turn_")))
    rates = turns.rates(found, total)
    for i, name in enumerate(recorded["turns/event_names"]):
        assert rates[f"{name}_per_minute"] == pytest.approx(recorded["turns/count_per_minute"][i])
        assert rates[f"{name}_seconds_per_minute"] == pytest.approx(
            recorded["turns/seconds_per_minute"][i])
        assert turns.durations(found,
                               str(name)).sum() * 1000 == pytest.approx(
                                   recorded["turns/duration_ms"][i])


def test_turns_by_hand_with_three_speakers_and_offsets():
    vads = [np.array([[0, 1000], [3000, 4000]]), np.array([[900, 2000]]), np.array([[2500, 2600]])]
    found = turn_taking.events(vads, 4000)
    np.testing.assert_array_equal(found["overlap"], [[900, 1000]])
    np.testing.assert_array_equal(found["gap"], [[2000, 2500], [2600, 3000]])
    assert not len(found["pause"]) and len(found["turn"]) == 4
    np.testing.assert_allclose(turns.floor_transfers(vads), [-0.1, 0.5, 0.4])
    assert turns.distance(np.array([1.0, 2.0]), np.array([1.5, 2.5])) == pytest.approx(0.5)
    assert np.isnan(turns.distance(np.zeros(0), np.ones(1)))


def test_activity_of_a_channel():
    rng, rate = np.random.default_rng(0), 86.0
    log_mel = rng.normal(size=(258, 80)) * 0.3 - 9
    log_mel[86:172] += 7
    (start, end), = intervals(energy.loud(log_mel)) / rate
    assert abs(start - 1) <= 0.03 and abs(end - 2) <= 0.03
    assert not energy.loud(np.full((100, 80), -11.5)).any()


def test_listening_equals_recorded(recorded):
    pose, exp = (recorded[f"listener/sid_{part}_centroids"].shape[1] for part in ("pose", "exp"))
    parts = {"pose": slice(0, pose), "exp": slice(pose, pose + exp)}
    clips = {who: numbered(recorded, f"listener/{who}_") for who in ("gt", "pred", "speaker")}
    for part, where in parts.items():
        gt, pred, speaker = ([x[:, where] for x in clips[who]] for who in ("gt", "pred", "speaker"))
        expected = {k: recorded[f"listener/result/{k}_{part}"]
                    for k in ("fid", "pfid", "mse", "sid", "var", "rpcc", "sts")}
        centroids = recorded[f"listener/sid_{part}_centroids"]
        ours = {"fid": [listener.fd(pred, gt).mean()],
                "pfid": [listener.pfd(pred, gt, speaker).mean()],
                "mse": [listener.mse(pred, gt).mean()],
                "sid": [listener.sid(pred, centroids), listener.sid(gt, centroids)],
                "var": [listener.variance(gt), listener.variance(pred)],
                "rpcc": [listener.rpcc(pred, gt, speaker)],
                "sts": [listener.sts(pred, gt)]}
        for name, value in ours.items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-5, err_msg=f"{name}_{part}")


    gt, pred, speaker = (clips[who] for who in ("gt", "pred", "speaker"))  # pose and expression
    whole = {"fid": [listener.fd(pred, gt).mean()], "mse": [listener.mse(pred, gt).mean()],
             "pfid": [listener.pfd(pred, gt, speaker).mean()],
             "var": [listener.variance(gt), listener.variance(pred)]}
    for name, value in whole.items():
        np.testing.assert_allclose(value, recorded[f"listener/result/{name}"], rtol=1e-5)


def test_a_reaction_to_another_partner_is_told_from_one_to_the_own():
    rng = np.random.default_rng(0)
    speaker = [rng.normal(size=(200, 3)) for _ in range(4)]
    truth = [s + 0.5 * rng.normal(size=s.shape) for s in speaker]
    pred = [s + 0.5 * rng.normal(size=s.shape) for s in speaker]
    strangers = speaker[1:] + speaker[:1]
    assert listener.rpcc(pred, truth, speaker) < 0.1 < listener.rpcc(pred, truth, strangers,
                                                                     speaker)
    own, others = (listener.pfd(pred, truth, x, speaker).mean() for x in (speaker, strangers))
    assert own < 0.5 * others
    assert np.isnan(listener.rpcc([x * 0 for x in pred], truth, speaker))
