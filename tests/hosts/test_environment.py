"""Settings of JAX that change results: pinned, recorded, compared."""

import jax
import pytest

from avjax.checkpoint import checkpoints
from avjax.errors import UserError
from avjax.hosts import distributed, environment
from tests.training.test_loop import run
from tests.workdirs import steps


@pytest.fixture
def setting():
    """Sets one of JAX's settings until the test is over."""
    before = {}

    def change(name, value):
        before.setdefault(name, getattr(jax.config, name))
        jax.config.update(name, value)

    yield change
    for name, value in before.items():
        jax.config.update(name, value)


def test_sixty_four_bits_are_set_aside_with_a_word(setting, monkeypatch):
    assert environment.pin() == []
    monkeypatch.setenv("JAX_ENABLE_X64", "1")
    setting("jax_enable_x64", True)
    with pytest.raises(
        UserError,
        match="jax_enable_x64; expected: False; found: True; hint: unset JAX_ENABLE_X64",
    ):
        environment.check()
    assert environment.pin() == [
        "JAX_ENABLE_X64=True is set aside: this code computes with JAX_ENABLE_X64=False"
    ]
    assert jax.numpy.ones(3).dtype == "float32"
    environment.check()


def test_a_run_goes_on_with_the_random_numbers_that_it_was_begun_with(tmp_path, setting):
    run(tmp_path, **{"train.steps": 3})
    assert checkpoints.load_meta(tmp_path)["environment"]["jax_default_prng_impl"] == "threefry2x32"
    told = (tmp_path / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError, match="further than that already.*at least 3.*found: 2"):
        run(tmp_path, **{"train.steps": 2})
    setting("jax_default_prng_impl", "rbg")
    assert environment.unusual() == {"jax_default_prng_impl": "rbg"}
    with pytest.raises(
        UserError,
        match="step 3; expected: JAX_DEFAULT_PRNG_IMPL=threefry2x32; "
        "found: JAX_DEFAULT_PRNG_IMPL=rbg",
    ):
        run(tmp_path)
    assert (tmp_path / "metrics.jsonl").read_bytes() == told and steps(tmp_path) == [3]


def test_what_changes_rounding_is_told_and_what_changes_draws_is_refused(setting):
    before = environment.settings()
    setting("jax_default_matmul_precision", "highest")
    assert environment.compare(before, "step 3") == [
        "resuming with another jax_default_matmul_precision, so sums may round otherwise: "
        "None before, 'highest' now"
    ]
    setting("jax_threefry_partitionable", False)
    with pytest.raises(
        UserError, match="JAX_THREEFRY_PARTITIONABLE=True; found: JAX_THREEFRY_PARTITIONABLE=False"
    ):
        environment.compare(before, "step 3")


def test_hosts_have_to_agree_on_them():
    assert {
        *environment.PINNED,
        *environment.RANDOM,
        *environment.ROUNDING,
    } <= distributed.versions().keys()
    assert environment.unusual() == {}


def test_a_checkpoint_of_former_times_is_compared_with_nothing():
    assert environment.compare({}, "step 3") == []
