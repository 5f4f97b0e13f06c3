"""Compilation that spends little on optimising, for tests of tiny networks."""

import functools

import jax

QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def quick_jit(function, **options):
    """jax.jit that spends little on optimising: tiny networks take longer to compile than to
    run."""
    return jax.jit(function, compiler_options=QUICK, **options)


# what the marker `quick` makes of jax.jit
patched = functools.partial(jax.jit, compiler_options=QUICK)
