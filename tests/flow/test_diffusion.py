"""Schedules, targets, weights and DDIM against recorded numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax.errors import UserError
from avjax.flow import diffusion
from tests.golden_files import cases, matching, relative_error, under

CASES = cases("hallo2_small_parts", key="ddim/")
TOLERANCE = 1e-5


@pytest.mark.parametrize("arrays", CASES)
def test_schedules_and_times(arrays):
    for kind in matching(arrays, r"ddim/(\w+)/alphas_cumprod"):
        rec = under(arrays, f"ddim/{kind}/")
        plain, zero = (diffusion.make_schedule(kind, zero_terminal_snr=zero)
                       for zero in (False, True))
        np.testing.assert_allclose(plain.alphas, rec["alphas_cumprod"], rtol=TOLERANCE)
        np.testing.assert_allclose(zero.alphas, rec["zsnr_alphas_cumprod"], rtol=TOLERANCE,
                                   atol=1e-7)
        assert zero.alphas[-1] == 0 and zero.snr[-1] == 0
    schedule = diffusion.make_schedule()
    for name, times in under(arrays, "ddim/trailing_timesteps_").items():
        np.testing.assert_array_equal(diffusion.trailing_timesteps(schedule, int(name)), times)
    with pytest.raises(UserError, match="sampling steps"):
        diffusion.trailing_timesteps(schedule, 1001)
    with pytest.raises(UserError, match="scaled_linear | linear"):
        diffusion.make_schedule("cosine")


@pytest.mark.parametrize("arrays", CASES)
def test_training_targets(arrays):
    rec, schedule = under(arrays, "train/"), diffusion.make_schedule()
    t, x0, noise = jnp.asarray(rec["timesteps"]), rec["latents"], rec["noise_with_offset"]
    np.testing.assert_allclose(rec["noise"] + rec["noise_offset"] * rec["noise_offset_draw"], noise,
                               atol=1e-6)
    assert relative_error(diffusion.q_sample(schedule, x0, noise, t), rec["noisy"]) < TOLERANCE
    velocity = diffusion.velocity_target(schedule, x0, noise, t)
    assert relative_error(velocity, rec["velocity"]) < TOLERANCE
    back = diffusion.data_and_noise(schedule, rec["noisy"], velocity, t)
    assert max(relative_error(a, b) for a, b in zip(back, (x0, noise), strict=True)) < TOLERANCE
    weights = diffusion.min_snr_weights(schedule, t)
    # recorded from float32 products, ours are float64
    np.testing.assert_allclose(weights, rec["weights"], rtol=1e-4)
    error = jnp.mean((rec["model_pred"] - velocity) ** 2, axis=(1, 2, 3, 4))
    np.testing.assert_allclose(jnp.mean(error * weights), rec["loss_per_sample_weighted"],
                               rtol=TOLERANCE)
    np.testing.assert_allclose(jnp.mean(error) * jnp.mean(weights), rec["loss_published"],
                               rtol=TOLERANCE)
    every = under(arrays, "min_snr/")
    np.testing.assert_allclose(schedule.snr, every["snr"], rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(diffusion.min_snr_weights(schedule, every["timesteps"]),
                               every["weights_gamma5"], rtol=1e-4)


@pytest.mark.parametrize("arrays", CASES)
def test_motion_frame_noise(arrays):
    rec = under(arrays, "motion_frame_noise/")
    noisy = diffusion.q_sample(diffusion.make_schedule(), rec["frames"], rec["noise"],
                               jnp.asarray(rec["timesteps"]))
    assert relative_error(noisy, rec["out"]) < TOLERANCE


@pytest.mark.parametrize("arrays", CASES)
def test_ddim(arrays):
    rec = under(arrays, "rollout/")
    for kind in matching(rec, r"(\w+)/final_\d+"):
        def run(steps, trace, schedule=diffusion.make_schedule(kind)):
            return jax.jit(lambda x: diffusion.ddim(lambda x, t: rec["a"] * x + rec["b"] * t, x,
                                                    schedule, steps, trace=trace))(rec["x_T"])
        for steps in matching(rec, rf"{kind}/final_(\d+)"):
            traced = f"{kind}/states_{steps}" in rec
            out = run(int(steps), traced)
            if traced:
                out, states, data = out
                assert relative_error(states, rec[f"{kind}/states_{steps}"]) < TOLERANCE
                assert relative_error(data, rec[f"{kind}/pred_x0_{steps}"]) < TOLERANCE
            assert relative_error(out,
                                  rec[f"{kind}/final_{steps}"]) < (1 if int(steps) < 20
                                                                   else 10) * TOLERANCE


def test_offset_noise_is_shared_along_its_axes():
    noise = diffusion.offset_noise(jax.random.key(0), (2, 3, 40, 40, 4), 2.0, (1, 2, 3))
    means = noise.mean((1, 2, 3))  # (clip, channel): the offset, since the rest averages out
    np.testing.assert_allclose(noise.mean((2, 3)), jnp.broadcast_to(means[:, None], (2, 3, 4)),
                               atol=0.15)
    assert 0.5 < float(means.std()) < 5
