"""Rotations of heads: one convention, others' rotations in it, and the perspective fit that finds
them from points of a face.

The convention, that of the column `pose`: identity looks into the camera, wherever the face is in
the picture; yaw > 0 turns the nose to the picture's right, pitch > 0 looks down, roll > 0 tilts
clockwise in the picture; a head is turned by yaw first, then by pitch, then by roll. The quaternion
wxyz is that of a frame of x right, y up and z to the viewer, with z's sign turned, so that the
angles count as said.
"""

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from avjax.errors import UserError
from data_pipelines.media.facial import shape

# frames of others -> signs of a rotation vector's components here
AXES = {"y up, z near": (1, 1, -1),  # OpenGL, FLAME (SMIRK, DECA, EMOCA), Deep3DFaceRecon
        "y down, z away": (1, -1, 1),  # OpenCV: a camera's own frame
        "y down, z near": (-1, 1, 1)}  # pictures with depth
# of the camera from a face, in distances of the outer corners of its eyes: 70 cm. A screen's camera
# is at 5 to 8, a studio's at 20; a crop of either looks as near as its source
DISTANCE = 8.0
SMOOTHING = 0.04  # seconds, standard deviation: as the track's
RECIPE = {"kind": "perspective fit 1", "rotation": "full, as the camera sees it; yaw to the "
          "picture's right, pitch down, roll clockwise", "distance": DISTANCE,
          "shape": "mean of 8 people, adapted to the recording", "smoothing": SMOOTHING}


def matrix(q) -> np.ndarray:
    """(..., 3, 3) of quaternions wxyz (..., 4), for columns of head coordinates: x to the picture's
    right, y down, z to the viewer."""
    q = np.asarray(q, np.float64)
    w, x, y, z = np.moveaxis(q / np.maximum(np.linalg.norm(q, axis=-1, keepdims=True), 1e-9), -1, 0)
    x = -x  # y points down here: about x, positive turns bring the front towards +y
    rows = [[1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)]]
    return np.stack([np.stack(row, -1) for row in rows], -2)


def of_rotation_vector(vectors_N3, axes: str = "y up, z near") -> np.ndarray:
    """(N, 4) float32 of axis-angle vectors in radians, as FLAME, SMPL and OpenCV have them."""
    return _quaternions(Rotation.from_rotvec(np.asarray(vectors_N3, np.float64)), axes)


def of_euler(angles_N3, order: str, axes: str = "y up, z near") -> np.ndarray:
    """(N, 4) float32 of Euler angles in radians.

    Args:
      angles_N3: in the order of `order`.
      order: of scipy's Rotation.from_euler: "xyz" turns about x first, each about fixed axes; "XYZ"
        about the axes that turned.
      axes: a key of AXES.
    """
    return _quaternions(Rotation.from_euler(order, np.asarray(angles_N3, np.float64)), axes)


def of_matrix(matrices_N33, axes: str = "y up, z near") -> np.ndarray:
    """(N, 4) float32 of rotation matrices that turn column vectors of the head into the camera's
    frame."""
    return _quaternions(Rotation.from_matrix(np.asarray(matrices_N33, np.float64)), axes)


def angles(q_N4) -> np.ndarray:
    """(N, 3) degrees: yaw, pitch, roll."""
    r = matrix(q_N4)
    yaw, roll = np.arctan2(-r[..., 2, 0], r[..., 2, 2]), np.arctan2(-r[..., 0, 1], r[..., 1, 1])
    pitch = np.arcsin(np.clip(-r[..., 2, 1], -1, 1))
    return np.degrees(np.stack([yaw, pitch, roll], -1))


def _quaternions(rotation: Rotation, axes: str) -> np.ndarray:
    if axes not in AXES:
        raise UserError("unknown axes", where="axes of a rotation", expected=" or ".join(AXES),
                        found=repr(axes))
    wxyz = np.roll(rotation.as_quat(canonical=True), 1, axis=-1)
    return (wxyz * (1, *AXES[axes])).astype(np.float32)


# ---- the fit

_NOISE = 0.02  # of a point, in eye distances
_PEOPLE = 0.04  # how much people differ from the mean shape, in eye distances
_SEEN = 10.0  # frames that count for a person's shape: errors of neighbours are alike
_TURNS, _SHAPES = 12, 3  # steps of the rotations, and of the shape
_FRAMES = 600  # of a recording that the shape is found on
_AT_ONCE = 4096
_ENOUGH = 1e-4  # radians: a smaller step is the last one


def fit(points_NK2, rate: float, weight_NK=None, distance: float = DISTANCE) -> np.ndarray:
    """(N, 4) float32: the head's rotation in every frame of one recording.

    Rigid points of the face (facial/shape.py) are projected by one camera, which looks at the
    face; rotations and places of all frames and one symmetric shape, near to the mean of people,
    are those of least squares, outliers weighing less. Smoothed over SMOOTHING.

    Args:
      points_NK2: 68 or 468 landmarks, x to the right and y down in the picture, in any unit that is
        the same for both and for all frames; NaN where a frame has none: its rotation is
        interpolated.
      rate: frames a second.
      weight_NK: how far each point is to be trusted, 0 .. 1.
      distance: of the camera from the face, as DISTANCE.

    Raises:
      UserError: another number of points, or not one frame that has them.
    """
    mean = shape.rigid(np.shape(points_NK2)[1])
    observed = np.asarray(points_NK2)[:, mean.points].astype(np.float64)
    known = np.isfinite(observed).all((1, 2))
    if not known.any():
        raise UserError("no rotation", where="points of a face", expected="a frame that has them",
                        found=f"none in {len(observed)}")
    weight = np.ones(observed.shape[:2]) if weight_NK is None else np.asarray(
        weight_NK, np.float64)[:, mean.points]
    rays = observed[known] - observed[known].mean(1, keepdims=True)
    spread = np.sqrt(np.square(rays).sum((1, 2)))
    flat = mean.xyz[:, :2] - mean.xyz[:, :2].mean(0)
    rays *= np.sqrt(np.square(flat).sum()) / np.median(spread) / distance
    xyz = _shape_of(rays, weight[known], mean)
    turn = np.concatenate([_turns(rays[i:i + _AT_ONCE], weight[known][i:i + _AT_ONCE], xyz)[0]
                           for i in range(0, len(rays), _AT_ONCE)])
    q = _one_sign(of_matrix(turn, "y down, z near"))
    at = np.arange(len(observed))
    q = np.stack([np.interp(at, np.flatnonzero(known), column) for column in q.T], 1)
    return smooth(q, rate)


def smooth(q_N4, rate: float) -> np.ndarray:
    """Quaternions smoothed in time: means of neighbours, of unit length."""
    q = ndimage.gaussian_filter1d(_one_sign(q_N4), SMOOTHING * rate, axis=0, mode="nearest")
    q /= np.linalg.norm(q, axis=-1, keepdims=True)
    return np.where(q[:, :1] < 0, -q, q).astype(np.float32)


def _one_sign(q_N4) -> np.ndarray:
    """q and -q are the same rotation: of the two, the one nearer to the frame before."""
    q = np.array(q_N4, np.float64)
    q[1:] *= np.cumprod(np.where(np.sum(q[1:] * q[:-1], -1) < 0, -1, 1))[:, None]
    return q


def _shape_of(rays_NR2, weight_NR, mean: shape.Shape) -> np.ndarray:
    """(R, 3) rigid points of this person, who is symmetric and near to the mean."""
    few = np.linspace(0, len(rays_NR2) - 1, min(len(rays_NR2), _FRAMES)).round().astype(int)
    rays, weight, xyz, flip = rays_NR2[few], weight_NR[few], mean.xyz, np.array([-1, 1, 1])
    begin = None
    for _ in range(_SHAPES):
        begin = turn, place = _turns(rays, weight, xyz, begin)
        error, slope, trust = _projected(rays, weight, xyz, turn, place)
        slope = slope @ turn[:, None]  # of the projections, by the points in the head
        slope, error = (place[:, 2, None, None, None] * slope,
                        place[:, 2, None, None] * error)  # in eye distances
        trust = trust / _NOISE**2 * min(_SEEN, len(few)) / len(few)
        curve = np.einsum("nr,nrai,nraj->rij", trust, slope, slope)
        pull = np.einsum("nr,nrai,nra->ri", trust, slope, error) + np.einsum(
            "rij,rj->ri", curve, xyz - mean.xyz)
        curve = (curve + flip[:, None] * curve[mean.mirror] * flip) / 2
        pull = (pull + flip * pull[mean.mirror]) / 2
        curve = curve + np.eye(3) / _PEOPLE**2
        xyz = _upright(mean.xyz + np.linalg.solve(curve, pull[..., None])[..., 0], mean.xyz)
    return xyz


def _upright(xyz_R3, mean_R3) -> np.ndarray:
    """A shape turned, moved and scaled to lie on the mean: what is left is the person's own."""
    own, other = xyz_R3 - xyz_R3.mean(0), mean_R3 - mean_R3.mean(0)
    turn, _ = Rotation.align_vectors(other, own)
    own = turn.apply(own)
    return own * np.sum(own * other) / np.sum(own * own) + mean_R3.mean(0)


def _turns(rays_NR2, weight_NR, xyz_R3, begin=None) -> tuple[np.ndarray, np.ndarray]:
    """Rotation matrices (N, 3, 3) and places (N, 3: x, y, distance in eye distances) of a known
    shape, by Gauss-Newton from `begin` (such a pair), by default from the front."""
    if begin is None:
        turn = np.tile(np.eye(3), (len(rays_NR2), 1, 1))
        flat = xyz_R3[:, :2] - xyz_R3[:, :2].mean(0)
        far = np.sqrt(np.square(flat).sum() / np.square(rays_NR2).sum((1, 2)))
        place = np.column_stack([np.tile(-xyz_R3[:, :2].mean(0), (len(far), 1)), far])
    else:
        turn, place = begin
    for _ in range(_TURNS):
        error, slope, trust = _projected(rays_NR2, weight_NR, xyz_R3, turn, place)
        head = xyz_R3 @ np.swapaxes(turn, 1, 2)
        zero = np.zeros(head.shape[:2])
        x, y, z = np.moveaxis(head, -1, 0)
        by_turn = np.stack([np.stack([zero, z, -y], -1), np.stack([-z, zero, x], -1),
                            np.stack([y, -x, zero], -1)], -2)  # of a head's points
        move = slope[..., :2]
        away = -slope[..., 2:]
        jacobian = np.concatenate([slope @ by_turn, move, away], -1).reshape(len(turn), -1, 6)
        weighted = np.swapaxes(jacobian * np.repeat(trust, 2, 1)[..., None], 1, 2)
        curve = weighted @ jacobian
        curve += 1e-9 * np.trace(curve, axis1=1, axis2=2)[:, None, None] * np.eye(6)
        pull = weighted @ error.reshape(len(turn), -1, 1)
        step = np.linalg.solve(curve, pull)[..., 0]
        turn = Rotation.from_rotvec(step[:, :3]).as_matrix() @ turn
        place = place + step[:, 3:]
        place[:, 2] = np.maximum(place[:, 2], 2.0)  # the nose stays before the camera
        if np.abs(step[:, :3]).max() < _ENOUGH:
            break
    return turn, place


def _projected(rays_NR2, weight_NR, xyz_R3, turn_N33, place_N3):
    """What the projections lack (N, R, 2), how they move with their points (N, R, 2, 3), and how
    far each is trusted: outliers less (Huber)."""
    head = xyz_R3 @ np.swapaxes(turn_N33, 1, 2)
    flat = head[..., :2] + place_N3[:, None, :2]
    away = place_N3[:, None, 2] - head[..., 2]
    projected = flat / away[..., None]
    error = rays_NR2 - projected
    zero = np.zeros_like(away)
    slope = np.stack([np.stack([1 / away, zero, projected[..., 0] / away], -1),
                      np.stack([zero, 1 / away, projected[..., 1] / away], -1)], -2)
    off = np.linalg.norm(error, axis=-1) * place_N3[:, 2:] / _NOISE
    return error, slope, weight_NR * np.minimum(1, 2 / np.maximum(off, 1e-9))
