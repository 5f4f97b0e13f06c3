"""Compilation that spends little on optimising, for tests of tiny networks."""

import functools

import jax
import pytest

QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def quick_jit(function, **options):
    """jax.jit that spends little on optimising: tiny networks take longer to compile than to
    run."""
    return jax.jit(function, compiler_options=QUICK, **options)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """`quick_jit` for jax.jit in every test of the modules that import this."""
    monkeypatch.setattr(jax, "jit", functools.partial(jax.jit, compiler_options=QUICK))
