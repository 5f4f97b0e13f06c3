"""Attention of queries to keys of another number, without a mask: one entry point, three kernels
that must agree.

Suffixes: B batch, T queries, S keys, H heads, K head width.
"""

import jax
import jax.numpy as jnp

from avjax.errors import UserError
from avjax.nn.attention_kernels import NEGATIVE

BLOCK = 512  # queries at a time in the blocked kernel
LARGE = 2**22  # scores of one head and row beyond which they are not all kept
CUDNN_WIDTH = 128  # widest head of the fused kernel


def cross_attention(q_BTHK, k_BSHK, v_BSHK, *, lengths_B=None, kernel: str = "auto"):
    """Scaled dot-product attention, softmax in float32.

    Args:
      q_BTHK, k_BSHK, v_BSHK: queries; keys and values.
      lengths_B: how many of its keys, from the first, a row sees; None = all.
      kernel: "dense" (all scores at once), "blocked" (BLOCK queries at a time, made again in the
        backward pass: memory linear in T), "cudnn" (fused, GPU, 16 bits), or "auto".

    Returns (batch, T, heads, head width) in q's dtype. Raises UserError for an unknown kernel.
    """
    if kernel == "auto":
        kernel = automatic(q_BTHK, k_BSHK.shape[1])
    if kernel not in KERNELS:
        raise UserError("unknown attention kernel", expected=" | ".join(("auto", *KERNELS)),
                        found=repr(kernel))
    return KERNELS[kernel](q_BTHK, k_BSHK, v_BSHK, lengths_B)


def automatic(q_BTHK, keys: int) -> str:
    """The kernel for a size on this machine."""
    queries, width = q_BTHK.shape[1], q_BTHK.shape[3]
    fits = (q_BTHK.dtype.itemsize == 2 and width % 8 == 0 and width <= CUDNN_WIDTH and queries >= 64
            and keys >= 64)
    if jax.default_backend() == "gpu" and fits:
        return "cudnn"
    return "blocked" if queries * keys > LARGE and queries % BLOCK == 0 else "dense"


def dense(q_BTHK, k_BSHK, v_BSHK, lengths_B):
    """All scores at once; the reference that the other kernels are tested against."""
    logits = jnp.einsum("bthk,bshk->bhts", q_BTHK, k_BSHK,
                        preferred_element_type=jnp.float32) * q_BTHK.shape[-1] ** -0.5
    if lengths_B is not None:
        seen_BS = jnp.arange(k_BSHK.shape[1]) < lengths_B[:, None]
        logits = jnp.where(seen_BS[:, None, None], logits, NEGATIVE)
    weights = jax.nn.softmax(logits, axis=-1).astype(v_BSHK.dtype)
    return jnp.einsum("bhts,bshk->bthk", weights, v_BSHK)


def blocked(q_BTHK, k_BSHK, v_BSHK, lengths_B):
    """`dense` for BLOCK queries at a time."""
    B, T, H, K = q_BTHK.shape
    size = BLOCK if T % BLOCK == 0 else T
    q_NBQHK = jnp.moveaxis(q_BTHK.reshape(B, T // size, size, H, K), 1, 0)
    one = jax.checkpoint(lambda q: dense(q, k_BSHK, v_BSHK, lengths_B))
    return jnp.moveaxis(jax.lax.map(one, q_NBQHK), 0, 1).reshape(B, T, H, K)


def cudnn(q_BTHK, k_BSHK, v_BSHK, lengths_B):
    """The fused kernel of NVIDIA's library."""
    lengths = None if lengths_B is None else lengths_B.astype(jnp.int32)
    return jax.nn.dot_product_attention(q_BTHK, k_BSHK, v_BSHK, key_value_seq_lengths=lengths,
                                        implementation="cudnn")


KERNELS = {"dense": dense, "blocked": blocked, "cudnn": cudnn}
