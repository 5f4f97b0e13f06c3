"""Where landmarks are said to be, and the networks themselves where their packages are here."""

import cv2
import numpy as np
import pytest

from data_pipelines.media import faces, head_rotation, landmarks
from data_pipelines.puppets import performance, render
from data_pipelines.puppets.face_code import NAMES
from data_pipelines.store.columns import identity_of
from tests.data_pipelines.media import puppet_points

TIME = np.arange(24) / 12
ANGLES = np.stack([20 * np.sin(4 * TIME), 10 * np.sin(3 * TIME + 1), 8 * np.sin(5 * TIME)], 1)


def puppets(size=256):
    """Pictures of a puppet that looks around, its 68 points, its track."""
    q = performance.quaternion(*np.radians(ANGLES).T)
    pose = np.concatenate([q, np.zeros((len(q), 3))], 1)
    a = {name: np.zeros(len(q)) for name in NAMES}
    a["lip_aperture"] = 0.8 * np.abs(np.sin(6 * TIME))
    identity = 0.8 * identity_of("ann")
    n = len(q)
    track = faces.Track(np.full((n, 2), 0.5), np.full(n, 0.5), np.zeros(n))
    points = puppet_points.points(a, pose, identity, size)
    return render.render(a, pose, identity, size), np.nan_to_num(points, nan=size / 2), track


@pytest.mark.parametrize("roll", [0.0, 0.4])
def test_points_in_crops_are_where_the_crops_show_them(roll):
    picture, at = np.zeros((200, 300, 3), np.uint8), np.array([[130.0, 90.0], [160.0, 120.0]])
    for x, y in at:
        cv2.circle(picture, (int(x), int(y)), 4, (255, 255, 255), -1)
    track = faces.Track(np.tile([0.5, 0.35], (3, 1)), np.full(3, 0.3), np.full(3, roll))
    cropper = faces.Cropper(track, 96)
    placed = cropper.place(np.tile(at / 300, (3, 1, 1)))
    grey = cropper(1, picture)[..., 0]
    for x, y in placed[1] * 96:
        assert grey[int(y), int(x)] > 200


def test_found_points_are_in_picture_widths():
    pictures, points, track = puppets()
    asked = []

    def find(image, x, y, width, roll):
        asked.append((x, y, width))
        return points[len(asked) - 1] / 2, 0.75

    small = [cv2.resize(p, (128, 128)) for p in pictures]
    found = landmarks.along(track, small, find)
    np.testing.assert_allclose(found.xy, points / 256, atol=1e-6)
    assert asked[0] == pytest.approx((64, 67.2, 64)) and found.height == 1
    assert (found.seen == 0.75).all() and len(found.light) == len(pictures)
    above = landmarks.along(track, small, lambda image, *box: (points[0] - 300, 0.75))
    assert not above.light.any()  # nothing of the picture is in it


@pytest.mark.parametrize("kind", landmarks.KINDS)
def test_the_network_finds_a_drawn_face(kind):
    """Puppets are drawings: the networks take them for people, whose noses are longer."""
    if command := landmarks.lacking(kind):
        pytest.skip(f"--landmarks={kind}: {command}")
    pictures, truth, track = puppets()
    found = landmarks.along(track, pictures, landmarks.finder(kind))
    if kind == "mesh468":
        eyes = np.linalg.norm(truth[:, 36] - truth[:, 45], axis=-1)
        off = np.linalg.norm(found.xy[:, [33, 263]] * 256 - truth[:, [36, 45]],
                             axis=-1) / eyes[:, None]
        assert np.median(off) < 0.15 and (found.seen > 0.9).all()
        angles = head_rotation.angles(head_rotation.fit(found.xy, 12))
        assert np.abs(angles - ANGLES).mean() < 5 and np.abs(angles - ANGLES)[:, 0].mean() < 5
        # a flat nose looks up, always by as much
        own = angles[:, 1] - angles[:, 1].mean() - ANGLES[:, 1] + ANGLES[:, 1].mean()
        assert np.abs(own).mean() < 3
        blank = np.full((256, 256, 3), 200, np.uint8)
        assert landmarks.in_crop(blank, landmarks.finder(kind))[1] < 0.5
    else:
        assert found.xy.shape == (len(pictures), 68, 2)
    crop, _ = landmarks.in_crop(pictures[0], landmarks.finder(kind))
    assert ((crop > 0) & (crop < 1)).mean() > 0.95
