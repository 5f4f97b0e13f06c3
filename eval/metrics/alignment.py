"""Frame-by-frame metrics for two utterances that say the same at another pace: both are compared
along one time warping.

The path is the exact optimum of dynamic time warping on normalised log-mel frames, Euclidean
distance, without a band. It comes from the sound alone, so lips are judged at the moments when the
same sounds are heard. A free warping finds likeness between any two utterances, and the more the
longer one of them is: read an aligned metric only beside that of another sentence, aligned the same
way, and beside the length error.
"""

import numpy as np

RECIPE = {"implementation": "avjax eval.metrics.alignment 1",
          "path": "exact DTW, steps (1, 0), (0, 1), (1, 1), no band",
          "on": "normalised log-mel, Euclidean", "ties": "nearest to the diagonal",
          "aligned": "every variant to the truth, baselines too"}


def dtw(cost_AB: np.ndarray) -> np.ndarray:
    """(L, 2) cheapest monotonic path from corner to corner with steps (1, 0), (0, 1), (1, 1).

    Anti-diagonals are vectors, so the Python loop is A + B long and not A * B; the table has a row
    for each of them, so that all it reads lies side by side.
    """
    rows, columns = cost_AB.shape
    total = np.full((rows + columns + 1, rows + 1), np.inf)  # (i + j, i)
    total[0, 0] = 0
    cost = np.ascontiguousarray(cost_AB).ravel()
    for diagonal in range(rows + columns - 1):
        first, end = max(0, diagonal - columns + 1), min(rows, diagonal + 1)
        line = total[diagonal + 1]
        before = np.minimum(np.minimum(line[first:end], line[first + 1:end + 1]),
                            total[diagonal, first:end])
        places = diagonal + np.arange(first, end) * (columns - 1)
        total[diagonal + 2, first + 1:end + 1] = cost[places] + before
    i, j, path = rows, columns, []
    while i and j:
        path.append((i - 1, j - 1))
        up, left = total.item(i + j - 1, i - 1), total.item(i + j - 1, i)
        both = total.item(i + j - 2, i - 1)
        if up <= left and up <= both:
            i -= 1
        elif left <= both:
            j -= 1
        else:
            i, j = i - 1, j - 1
    return np.array(path[::-1])


def align(a_TM: np.ndarray, b_UM: np.ndarray) -> np.ndarray:
    """(L, 2) pairs of frames (of a, of b)."""
    from scipy.spatial.distance import cdist

    cost_TU = cdist(np.asarray(a_TM, np.float64), np.asarray(b_UM, np.float64))
    off_diagonal_TU = np.abs(np.subtract.outer(np.arange(len(a_TM)) / len(a_TM),
                                               np.arange(len(b_UM)) / len(b_UM)))
    # in silence all paths cost the same: take the straight one
    return dtw(cost_TU + 1e-3 * off_diagonal_TU)


def aligned_l1(a_TM: np.ndarray, b_UM: np.ndarray, path_L2: np.ndarray) -> float:
    """Mean |difference| over the pairs of a path and all bands."""
    return float(np.abs(np.asarray(a_TM, np.float64)[path_L2[:, 0]] - b_UM[path_L2[:, 1]]).mean())


def matching_frames(path_L2: np.ndarray, seconds_a: float, seconds_b: float, fps: float,
                    frames_a: int,
                    frames_b: int) -> np.ndarray:
    """(frames_b,) index of the frame of a at `fps` that belongs to each frame of b.

    Args:
      path_L2: from `align`.
      seconds_a, seconds_b: what the aligned sequences cover; both begin at 0 s, and frame k of T is
        centred at (k + 1/2) / T of it.
      fps: of the frames to match; frame n is at n / fps seconds.
      frames_a, frames_b: how many there are.
    """
    of_a, of_b = path_L2.T
    length_a, length_b = of_a[-1] + 1, of_b[-1] + 1
    mean_a = np.bincount(of_b, of_a) / np.bincount(of_b)  # frames of a that share one of b
    position_b = np.arange(frames_b) / fps * length_b / seconds_b - 0.5
    position_a = np.interp(position_b, np.arange(length_b), mean_a)
    index = np.round((position_a + 0.5) * seconds_a / length_a * fps).astype(int)
    return np.clip(index, 0, max(frames_a - 1, 0))
