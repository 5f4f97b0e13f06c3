"""The forward sum over packed rows against every alignment, one by one."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from avjax.nn.alignment import Labels, forward_sum

# of each row: (labels, positions behind them, frames) an utterance; as many frames as there must
# be; an utterance that cannot be spelled, which counts nothing
ROWS = ([(4, 5, 7), (3, 4, 3)], [(1, 1, 6), (3, 1, 2)])
WIDTH, FRAMES = 20, 16


def packed():
    """Labels, the utterance of each frame, with a frame of none before each, and of each utterance
    (row, its positions, its frames)."""
    segment, spelled = np.zeros((2, WIDTH), int), np.zeros((2, WIDTH), bool)
    frame, places = np.zeros((2, FRAMES), int), []
    for row, utterances in enumerate(ROWS):
        n = t = 0
        for number, (count, behind, frames) in enumerate(utterances, 1):
            end = n + 1 + count
            segment[row, n:end + behind], spelled[row, n + 1:end] = number, True
            frame[row, t + 1:t + 1 + frames] = number
            places.append((row, np.arange(n + 1, end), np.arange(t + 1, t + 1 + frames)))
            n, t = end + behind, t + 1 + frames
    return Labels(segment, spelled), frame, places


def alignments(labels: int, frames: int):
    """The label of each frame, of every alignment."""
    for starts in itertools.combinations(range(1, frames), labels - 1):
        yield np.searchsorted(starts, np.arange(frames), side="right")


def test_as_all_alignments_say():
    labels, frame, places = packed()
    log_p = np.random.default_rng(0).normal(size=(2, FRAMES, WIDTH)).astype(np.float32)

    @jax.jit
    def found(log_p):
        def loss(log_p):
            return forward_sum(log_p, jnp.asarray(frame), labels)

        return jax.value_and_grad(loss, has_aux=True)(log_p)

    (loss, count), gradient = found(log_p)
    total, posterior = 0.0, np.zeros(log_p.shape)
    for row, positions, frames in places[:3]:
        paths = [positions[at] for at in alignments(len(positions), len(frames))]
        scores = [log_p[row, frames, path].sum(dtype=np.float64) for path in paths]
        sum_ = np.logaddexp.reduce(scores)
        total -= sum_
        for path, score in zip(paths, scores, strict=True):
            posterior[row, frames, path] += np.exp(score - sum_)
    np.testing.assert_allclose(loss, total, rtol=1e-6)
    np.testing.assert_allclose(gradient, -posterior, atol=1e-6)
    assert count == 7 + 3 + 6
