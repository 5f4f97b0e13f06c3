"""Start noise of AV-Flow: a frame's depends on the example's key and the frame's number alone, so
that padding only appends to it and a stream draws what the offline sampler does."""

import jax
import jax.numpy as jnp


def frame_noise(key, frames_T, width: int):
    """Unit normal (time, width); each frame from its own fold of the key, so that it does not
    matter how far a sequence is padded, or in which chunks its frames are sampled."""
    return jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(key, i), (width,),
                                                jnp.float32))(frames_T)


def noise(keys, shape):
    """Unit normal (batch, time, width), each example from its own key."""
    return jax.vmap(lambda key: frame_noise(key, jnp.arange(shape[0]), shape[1]))(keys)
