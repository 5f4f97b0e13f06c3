"""Names of state dicts saved through wrappers: what real torch 2.x wrappers write, by hand."""

import numpy as np
import pytest

from avjax.errors import UserError
from avjax.weights.wrappers import unwrap

A, B = np.arange(3.0), np.arange(4.0)
COUNT = np.array(7)


@pytest.mark.parametrize("state", [
    {"a.weight": A, "b": B},
    {"module.a.weight": A, "module.b": B},
    {"_orig_mod.a.weight": A, "_orig_mod.b": B},
    {"a._orig_mod.weight": A, "b": B},  # only one block was compiled
    {"module._orig_mod.a.weight": A, "module._orig_mod.b": B},
    {"_orig_mod.module.a.weight": A, "_orig_mod.module.b": B},
    {"n_averaged": COUNT, "module.a.weight": A, "module.b": B},
    # the average of a parallel model
    {"n_averaged": COUNT, "module.module.a.weight": A, "module.module.b": B},
    {"module.n_averaged": COUNT, "module.module.a.weight": A, "module.module.b": B},
    {"_orig_mod.n_averaged": COUNT, "_orig_mod.module.a.weight": A, "_orig_mod.module.b": B},
    {"_fsdp_wrapped_module.a._checkpoint_wrapped_module.weight": A, "_fsdp_wrapped_module.b": B},
    {"initted": COUNT, "step": COUNT, "ema_model.a.weight": A, "ema_model.b": B},
    {"initted": COUNT, "step": COUNT, "online_model.a.weight": B, "online_model.b": A,
     "ema_model.module.a.weight": A, "ema_model.module.b": B}])
def test_every_wrapper_gives_the_inner_names_and_arrays(state):
    inner = unwrap(state)
    assert inner.keys() == {"a.weight", "b"}
    assert inner["a.weight"] is A and inner["b"] is B


def test_networks_whose_own_names_look_alike_are_left_alone():
    for state in ({"module.a": A, "head.b": B}, {"n_averaged": COUNT, "a": A},
                  {"step": A, "module.b": B}, {"a.module.weight": A}, {"online_model.a": A, "b": B},
                  {"online_model.a": A}):
        assert unwrap(state) == state


def test_integer_keys_are_text_and_two_entries_never_share_a_name():
    assert unwrap({0: A, np.int64(1): B}).keys() == {"0", "1"}
    assert unwrap({"a": A, "_orig_mod.a": A.copy()}).keys() == {"a"}  # a tied module
    with pytest.raises(UserError, match="two entries.*FILE.*'0' is '0' too"):
        unwrap({0: A, "0": B}, "FILE")
    with pytest.raises(UserError, match="not text.*None"):
        unwrap({None: A})
