"""Rotations of heads: signs, conventions of others, and the fit on heads whose pose is known."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from avjax.errors import UserError
from data_pipelines.media import head_rotation, landmarks
from data_pipelines.media.facial import shape
from data_pipelines.puppets import performance
from data_pipelines.puppets.face_code import NAMES
from data_pipelines.store.columns import identity_of
from tests.data_pipelines.media import puppet_points

TIME = np.arange(120) / 30
# yaw, pitch, roll of a head that looks around, degrees
MOVING = np.stack([25 * np.sin(3.1 * TIME), 15 * np.sin(2.3 * TIME + 1),
                   10 * np.sin(1.7 * TIME + 2)], 1)


def quaternions(angles_N3):
    return performance.quaternion(*np.radians(angles_N3).T)


def apart(q, other) -> np.ndarray:
    """(N,) degrees between rotations."""
    turn = np.swapaxes(head_rotation.matrix(q), 1, 2) @ head_rotation.matrix(other)
    return np.degrees(np.arccos(np.clip((np.trace(turn, axis1=1, axis2=2) - 1) / 2, -1, 1)))


def projected(xyz_R3, q, kind=68, distance=8.0, shift=0.0, noise=0.0, seed=0):
    """(N, K, 2) landmarks of a head at 300 pixels an eye distance of a camera's plane."""
    rng = np.random.default_rng(seed)
    points = xyz_R3 @ np.swapaxes(head_rotation.matrix(q), 1, 2)
    flat = 300 * (distance * points[..., :2] / (distance - points[..., 2:]) + shift)
    out = np.zeros((len(q), kind, 2))
    out[:, shape.rigid(kind).points] = flat + rng.normal(0, 300 * noise, flat.shape)
    return out


def test_angles_are_the_puppets_own():
    np.testing.assert_allclose(head_rotation.angles(quaternions(MOVING)), MOVING, atol=1e-9)
    q = quaternions(np.array([[20, 0, 0], [0, 20, 0], [0, 0, 20.0]]))
    nose = head_rotation.matrix(q) @ [0, 0, 1.0]  # x right, y down
    assert nose[0, 0] > 0.3  # yaw turns it to the picture's right
    assert nose[1, 1] > 0.3  # pitch down
    right = head_rotation.matrix(q[2]) @ [1.0, 0, 0]
    assert right[1] > 0.3  # roll brings the right side down: clockwise


@pytest.mark.parametrize("axes, mirror", [("y up, z near", (1, -1, 1)), ("y down, z away",
                                                                         (1, 1, -1))])
def test_rotations_of_others(axes, mirror):
    vectors = np.random.default_rng(0).normal(0, 0.6, (20, 3))
    theirs, flip = Rotation.from_rotvec(vectors), np.diag(mirror)
    expected = flip @ theirs.as_matrix() @ flip
    euler = theirs.as_euler("xyz")
    for q in (head_rotation.of_rotation_vector(vectors, axes),
              head_rotation.of_matrix(theirs.as_matrix(), axes),
              head_rotation.of_euler(euler, "xyz", axes)):
        np.testing.assert_allclose(head_rotation.matrix(q), expected, atol=1e-6)
        assert (q[:, 0] >= 0).all()


def test_a_head_of_flame_that_looks_down_and_to_the_right():
    """FLAME: x to its left, which is the picture's right, y up, z to the viewer."""
    yaw, pitch, roll = head_rotation.angles(
        head_rotation.of_rotation_vector([[0, 0.2, 0], [0.2, 0, 0], [0, 0, 0.2]])).T
    assert yaw[0] > 11 and pitch[1] > 11 and roll[2] < -11
    with pytest.raises(UserError, match="unknown axes"):
        head_rotation.of_rotation_vector([[0, 0, 0.1]], "upside down")


@pytest.mark.parametrize("kind", [68, 468])
def test_the_fit_finds_known_rotations(kind):
    """Of a person who is no mean of people, by points of 2 % noise, anywhere in the picture, from
    another distance than is assumed."""
    mean, q = shape.rigid(kind), quaternions(MOVING)
    own = np.random.default_rng(1).normal(0, 0.04, mean.xyz.shape)
    own = mean.xyz + (own + own[mean.mirror] * (-1, 1, 1)) / 2**0.5
    for distance, shift in ((8.0, 0.0), (15.0, 2.0)):
        found = head_rotation.fit(projected(own, q, kind, distance, shift, 0.02), 30)
        assert apart(found, q).mean() < 3
        np.testing.assert_allclose(head_rotation.angles(found).mean(0), MOVING.mean(0), atol=2)


def test_the_fit_finds_puppets_rotations():
    """Puppets are no people: flat noses, deep heads; and they talk and blink."""
    q = quaternions(MOVING)
    pose = np.concatenate([q, np.zeros((len(q), 3))], 1)
    talk = {name: 0.5 * np.abs(np.sin(7 * TIME)) for name in NAMES}
    for name in ("ann", "bob"):
        points = puppet_points.points(talk, pose, 0.8 * identity_of(name))
        points += np.random.default_rng(2).normal(0, 1, points.shape)
        found = head_rotation.fit(points, 30)
        assert apart(found, q).mean() < 2
        by_angle = np.abs(head_rotation.angles(found) - MOVING).mean(0)
        assert (by_angle < (1.5, 1.5, 1.5)).all()


def test_a_frame_that_is_off_does_not_turn_its_neighbours():
    q = quaternions(MOVING)
    points = projected(shape.rigid(68).xyz, q)
    points[50:53] = np.nan
    points[80, 36] += 200  # one point is wrong
    found = head_rotation.fit(points, 30)
    assert apart(found, q).max() < 8 and apart(found, q).mean() < 1
    weight = np.ones(points.shape[:2])
    weight[80, 36] = 0
    assert apart(head_rotation.fit(points, 30, weight), q)[80] < apart(found, q)[80]


def test_rotations_are_smooth_and_of_one_sign():
    noise = Rotation.from_rotvec(np.random.default_rng(0).normal(0, 0.1, (200, 3))).as_quat()
    q = np.roll(noise, 1, -1) * np.where(np.arange(200) % 2, 1, -1)[:, None]
    out = head_rotation.smooth(q, 30)
    assert (out[:, 0] > 0.9).all()
    assert np.abs(np.diff(out, axis=0)).mean() < 0.5 * 0.1 / 2
    np.testing.assert_allclose(np.linalg.norm(out, axis=1), 1, atol=1e-6)


def test_what_cannot_be_fitted_is_said():
    with pytest.raises(UserError, match="expected: 468 or 68; found: 5"):
        head_rotation.fit(np.zeros((4, 5, 2)), 30)
    with pytest.raises(UserError, match="no rotation.*none in 4"):
        head_rotation.fit(np.full((4, 68, 2), np.nan), 30)


def test_the_face_of_wholebody_keypoints():
    keypoints = np.arange(2 * 133 * 3, dtype=np.float64).reshape(2, 133, 3)
    points, scores = landmarks.of_wholebody(keypoints)
    assert points.shape == (2, 68, 2) and scores.shape == (2, 68)
    np.testing.assert_array_equal(points[1, 0], keypoints[1, 23, :2])
    np.testing.assert_array_equal(scores[:, -1], keypoints[:, 90, 2])
