"""Attention in one kernel, which never writes the scores to memory: cuDNN's on GPUs, JAX's splash
attention on TPUs. Values are those of avjax.nn.attention_kernels.dense up to the rounding of 16
bits; on a CPU splash attention is interpreted, for tests.

Both run on each device's rows and heads (jax.shard_map), since XLA's partitioner cannot look into
them. What cuDNN has no mask for (a band to both sides, packed rows, interleaved streams, windows
that are traced) goes in as a bias of 16 bits, (1 or B, 1, T, T). Splash attention masks by
position, which must be known when it is compiled, and by segment.

Suffixes: B batch, T time or queries, S keys, H heads, G key-value heads, K head width.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from avjax.errors import UserError
from avjax.sharding.activations import active_mesh, axes_for, platform

FUSED = ("cudnn", "splash")
WIDEST = 128  # head width that cuDNN takes on every card
SHORTEST = 256  # shorter sequences gain nothing: their scores are small
LANES = 128  # of a TPU's registers, in which splash attention counts positions
BLOCKS = (512, 384, 256, 128)  # positions that splash attention takes together


def choose(q_BHTK, traced: bool) -> str | None:
    """The fused kernel of these shapes on the devices that the program is compiled for; None where
    there is none, or none that pays. traced: the mask depends on a value."""
    T, K = q_BHTK.shape[2:]
    where = platform()
    if q_BHTK.dtype.itemsize != 2 or T < SHORTEST or K % 8:
        return None
    if where == "gpu" and K <= WIDEST:
        return "cudnn"
    return "splash" if where == "tpu" and not traced else None


def fused(kernel: str, q_BHTK, k_BGTK, v_BGTK, left: int, right: int, near, segments_BT,
          streams: int, traced: bool):
    """avjax.nn.attention.attention by a kernel of FUSED; `traced`: `near` depends on a value.
    Raises UserError where the kernel does not run."""
    if kernel == "cudnn":
        _check("cuDNN's attention", platform() == "gpu" and q_BHTK.dtype.itemsize == 2,
               "bfloat16 or float16 on a GPU", f"{q_BHTK.dtype} on {platform()}")
        run = functools.partial(_cudnn, left=left, right=right, near=near, streams=streams,
                                traced=traced)
    else:
        _check("splash attention", platform() in ("tpu", "cpu") and not traced,
               "a window known in advance, on a TPU (interpreted on a CPU)",
               "a traced window" if traced else f"on {platform()}")
        run = functools.partial(_splash, left=left, right=right, near=near, streams=streams)
    if active_mesh() is None:
        return run(q_BHTK, k_BGTK, v_BGTK, segments_BT)
    B, H, G = q_BHTK.shape[0], q_BHTK.shape[1], k_BGTK.shape[1]
    if axes_for(G, "width") != axes_for(H, "width"):  # fewer key-value heads than devices
        k_BGTK, v_BGTK = (jnp.repeat(x, H // G, axis=1) for x in (k_BGTK, v_BGTK))
    rows = axes_for(B, "batch") or None
    place = PartitionSpec(rows, axes_for(H, "width") or None)
    given = (q_BHTK, k_BGTK, v_BGTK) + (() if segments_BT is None else (segments_BT,))
    places = (place,) * 3 + (PartitionSpec(rows),) * (len(given) - 3)

    def here(q, k, v, segments=None):
        return run(q, k, v, segments)

    return jax.shard_map(here, in_specs=places, out_specs=place, check_vma=False)(*given)


def cross_cudnn(q_BTHK, k_BSHK, v_BSHK, lengths_B):
    """cuDNN's kernel for queries on other keys, of which each row sees the first `lengths_B`."""
    def here(q, k, v, lengths=None):
        return jax.nn.dot_product_attention(q, k, v, key_value_seq_lengths=lengths,
                                            implementation="cudnn")

    queries, keys = q_BTHK.shape[1], k_BSHK.shape[1]
    if keys % 2 and lengths_B is None:  # cuDNN trains on even lengths
        lengths_B = jnp.full(len(q_BTHK), keys)
    q_BTHK, k_BSHK, v_BSHK = (_padded(x, x.shape[1] % 2, 1) for x in (q_BTHK, k_BSHK, v_BSHK))
    return _on_each_device(here, q_BTHK, k_BSHK, v_BSHK, lengths_B)[:, :queries]


def cross_splash(q_BTHK, k_BSHK, v_BSHK, lengths_B):
    """Splash attention for queries on other keys, of which each row sees the first `lengths_B`."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    T, S, K = q_BTHK.shape[1], k_BSHK.shape[1], q_BTHK.shape[3]

    def here(q, k, v, lengths=None):
        q = (q.astype(jnp.float32) * K**-0.5).astype(q.dtype)
        q, k, v = (_padded(x.swapaxes(1, 2), -x.shape[1] % LANES, 2) for x in (q, k, v))
        segments = None
        if lengths is not None or q.shape[2] > T or k.shape[2] > S:
            ends = jnp.full(len(q), S) if lengths is None else lengths
            segments = (jnp.zeros((len(q), q.shape[2]), jnp.int32),
                        (jnp.arange(k.shape[2]) >= ends[:, None]).astype(jnp.int32))
        return _splash_kernel(q, k, v, masks.FullMask((q.shape[2], k.shape[2])),
                              segments)[:, :, :T].swapaxes(1, 2)

    _check("splash attention", platform() in ("tpu", "cpu"), "a TPU (interpreted on a CPU)",
           f"on {platform()}")
    return _on_each_device(here, q_BTHK, k_BSHK, v_BSHK, lengths_B)


def _on_each_device(attend, q_BTHK, k_BSHK, v_BSHK, lengths_B):
    """`attend` of these on every device's rows and heads; lengths may be None."""
    given = (q_BTHK, k_BSHK, v_BSHK) + (() if lengths_B is None else (lengths_B.astype(jnp.int32),))
    if active_mesh() is None:
        return attend(*given)
    rows = axes_for(len(q_BTHK), "batch") or None
    place = PartitionSpec(rows, None, axes_for(q_BTHK.shape[2], "width") or None)
    places = (place,) * 3 + (PartitionSpec(rows),) * (len(given) - 3)
    return jax.shard_map(attend, in_specs=places, out_specs=place, check_vma=False)(*given)


def _check(what: str, good: bool, expected: str, found: str) -> None:
    if not good:
        raise UserError(f"{what} does not run here", where="system.attention_kernel",
                        expected=expected, found=found, hint='"auto" takes what does')


def _padded(x, missing: int, axis: int, value: int = 0):
    pads = [(0, missing if i == axis else 0) for i in range(x.ndim)]
    return jnp.pad(x, pads, constant_values=value) if missing else x


def _cudnn(q_BHTK, k_BGTK, v_BGTK, segments_BT, *, left, right, near, streams, traced):
    length = q_BHTK.shape[2]
    steps = length // streams
    odd = length % 2  # cuDNN trains on even lengths
    q_BTHK, k_BTGK, v_BTGK = (_padded(x, odd, 2).swapaxes(1, 2) for x in (q_BHTK, k_BGTK, v_BGTK))
    simple = segments_BT is None and not traced
    # of one stream; several see all of a step
    causal = simple and right == 0 and streams == 1
    options: dict = {}
    if causal:
        options["is_causal"] = True
        if left < steps - 1:
            options["local_window_size"] = (left, 0)
    elif not simple or odd or min(left, right) < steps - 1:
        options["mask"] = _seen(length, odd, near, segments_BT, streams)
    out = jax.nn.dot_product_attention(q_BTHK, k_BTGK, v_BTGK, implementation="cudnn", **options)
    return out.swapaxes(1, 2)[:, :, :length]


def _seen(length: int, more: int, near, segments_BT, streams: int):
    """(1 or B, 1, T, T), True where a query sees a key; `more` positions behind the last one see
    only each other."""
    position = np.arange(length + more)
    step = position // streams
    beyond = position >= length
    seen = near(step[None, :] - step[:, None]) & (beyond[:, None] == beyond[None, :])
    seen = jnp.asarray(seen | np.eye(length + more, dtype=bool))[None, None]
    if segments_BT is not None:
        segments_BT = _padded(segments_BT, more, 1)
        seen = seen & (segments_BT[:, None, :, None] == segments_BT[:, None, None, :])
    return seen


def _splash(q_BHTK, k_BGTK, v_BGTK, segments_BT, *, left, right, near, streams):
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    length, K = q_BHTK.shape[2:]
    missing = -length % LANES
    whole = length + missing
    scaled = (q_BHTK.astype(jnp.float32) * K**-0.5).astype(q_BHTK.dtype)
    q, k, v = (_padded(x, missing, 2) for x in (scaled, k_BGTK, v_BGTK))
    if segments_BT is not None or missing:
        real = jnp.zeros((len(q), length), jnp.int32) if segments_BT is None else segments_BT
        lowest = jnp.min(real, axis=1, keepdims=True)
        segments_BT = _padded((real + 1 - lowest).astype(jnp.int32), missing, 1)  # 0 = padding
    shape = (whole, whole)
    if streams > 1:
        step = np.arange(whole) // streams
        mask = masks.NumpyMask(np.asarray(near(step[None, :] - step[:, None])))
    elif min(left, right) >= length - 1:
        mask = masks.FullMask(shape)
    else:
        mask = masks.LocalMask(shape, (None if left >= length - 1 else left,
                                       None if right >= length - 1 else right), 0)
    segments = None if segments_BT is None else (segments_BT, segments_BT)
    return _splash_kernel(q, k, v, mask, segments)[:, :, :length]


def _splash_kernel(q_BHTK, k_BGSK, v_BGSK, mask, segments):
    """`mask` of every head; segments: of the queries (B, T) and of the keys (B, S), or None."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    queries, keys = (next(size for size in BLOCKS if x.shape[2] % size == 0)
                     for x in (q_BHTK, k_BGSK))
    names = ("block_q", "block_kv", "block_kv_compute", "block_q_dkv", "block_kv_dkv",
             "block_kv_dkv_compute", "block_q_dq", "block_kv_dq")
    sizes = {name: queries if "block_q" in name else keys for name in names}
    kernel = splash.make_splash_mha(masks.MultiHeadMask([mask] * q_BHTK.shape[1]), head_shards=1,
                                    q_seq_shards=1, block_sizes=splash.BlockSizes(**sizes),
                                    interpret=platform() == "cpu")
    if segments is None:
        return jax.vmap(kernel)(q_BHTK, k_BGSK, v_BGSK)
    return jax.vmap(lambda q, k, v, of_q, of_k: kernel(
        q, k, v, segment_ids=splash.SegmentIds(of_q, of_k)))(q_BHTK, k_BGSK, v_BGSK, *segments)
