"""Lips, smile and eyes from points of a face, against puppets whose articulators are known."""

import numpy as np
import pytest

from avjax.errors import UserError
from data_pipelines.media.facial import signals
from data_pipelines.puppets import face_code, performance
from data_pipelines.puppets.face_code import NAMES
from data_pipelines.store.columns import identity_of
from tests.data_pipelines.media import puppet_points

TIME = np.arange(120) / 30


def puppet(yaw=0.0, **moving):
    """68 points of a puppet that looks about by `yaw` degrees while its articulators move."""
    a = {name: np.zeros(120) for name in NAMES} | moving
    turn = np.radians(yaw) * np.sin(2.1 * TIME)
    q = performance.quaternion(turn, 0.6 * turn, 0.3 * turn)
    pose = np.concatenate([q, np.zeros((120, 3))], 1)
    return puppet_points.points(a, pose, 0.8 * identity_of("ann")), a


@pytest.mark.parametrize("yaw", [0.0, 25.0])
def test_lips_follow_the_articulators_whatever_the_head_does(yaw):
    points, a = puppet(yaw, lip_aperture=0.6 * np.sin(9 * TIME))
    found = signals.expression(points, 30)
    aperture, width = face_code.lips(a)
    assert np.corrcoef(found.aperture, aperture)[0, 1] > 0.98
    closed, truly = found.aperture < signals.TAU[68] * found.width, aperture < 0.05 * width
    assert (closed == truly).mean() > 0.95
    assert found.width.std() / found.width.mean() < 0.08  # the head turns; the mouth stays


def test_smile_and_blink():
    blink = (np.arange(120) % 40 < 4).astype(float)
    smile = np.clip(np.sin(2 * TIME), 0, 1)
    found = signals.expression(puppet(smile=smile, blink_left=blink, blink_right=blink)[0], 30)
    assert np.corrcoef(found.smile, smile)[0, 1] > 0.95
    shut = found.eyes < 0.5 * np.median(found.eyes)
    np.testing.assert_array_equal(shut, blink > 0)


def test_frames_without_points_are_interpolated():
    points, _ = puppet(lip_aperture=0.5 * np.ones(120))
    points[10:14] = np.nan
    found = signals.expression(points, 30)
    assert np.isfinite(found.aperture).all()
    np.testing.assert_allclose(found.aperture[11], found.aperture[9], rtol=0.05)
    with pytest.raises(UserError, match="found: 5"):
        signals.expression(np.zeros((3, 5, 2)), 30)
