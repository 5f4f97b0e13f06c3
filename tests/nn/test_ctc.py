"""CTC over packed rows against optax's, an utterance at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from avjax.nn.ctc import Labels, packed_ctc

# of each row: (labels, positions behind them, frames) an utterance. Repeated labels; as many frames
# as there must be; an utterance that cannot be spelled, which counts nothing
ROWS = ([([1, 2, 2, 5, 1], 5, 15), ([3, 3, 6], 4, 4)], [([4], 1, 9), ([2, 2, 2], 1, 4)])
WIDTH, FRAMES, KINDS = 24, 30, 7


def packed():
    """Labels, and the utterance of each frame, with a frame of none in front of and between two."""
    labels = {name: np.zeros((2, WIDTH), kind) for name, kind in
              zip(Labels._fields, (int, int, bool, bool), strict=True)}
    frame = np.zeros((2, FRAMES), int)
    for row, utterances in enumerate(ROWS):
        n = t = 0
        for segment, (ids, behind, frames) in enumerate(utterances, 1):
            end = n + 1 + len(ids)
            labels["segment"][row, n:end + behind] = segment
            labels["first"][row, n] = labels["spelled"][row, n + 1:end] = True
            labels["ids"][row, n + 1:end] = ids
            frame[row, t + 1:t + 1 + frames] = segment
            n, t = end + behind, t + 1 + frames
    return Labels(**labels), frame


def test_as_optax_says():
    labels, frame = packed()
    logits = np.random.default_rng(0).normal(size=(2, FRAMES, KINDS)).astype(np.float32)

    @jax.jit
    @jax.value_and_grad
    def found(logits):
        log_p = jax.nn.log_softmax(logits)
        of_ids = jnp.take_along_axis(log_p, jnp.asarray(labels.ids)[:, None], axis=-1)
        loss, count = packed_ctc(of_ids, log_p[..., 0], jnp.asarray(frame), labels)
        return loss + 100 * jax.lax.stop_gradient(count)

    @jax.jit
    @jax.value_and_grad
    def wanted(logits):
        total = 0.0
        for row, segment in ((0, 1), (0, 2), (1, 1)):
            ids = np.array(ROWS[row][segment - 1][0])[None]
            own = logits[row][np.flatnonzero(frame[row] == segment)][None]
            total += optax.ctc_loss(own, np.zeros(own.shape[:2]), ids, np.zeros(ids.shape))[0]
        return total + 100 * (5 + 3 + 1)

    (loss, gradient), (true, true_gradient) = found(logits), wanted(logits)
    np.testing.assert_allclose(loss, true, rtol=1e-6)
    np.testing.assert_allclose(gradient, true_gradient, atol=1e-5)
    assert not gradient[frame == 0].any() and not gradient[1][frame[1] == 2].any()
