"""The benchmark measures what it says, and runs a peer in turn."""

import json
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from avjax.errors import UserError
from avjax.systems import api, benchmarking, registry
from avjax.systems.api import build
from avjax.systems.benchmarking import Options
from avjax.training import timing
from avjax.training.state import abstract_state
from configs import head_vae
from launch import flags
from launch.jobs import benchmark, loading
from tests.systems.talker_tiny import random_params


@pytest.fixture
def quick(monkeypatch):
    """A machine of a known speed, and parameters and states for which nothing has to be
    compiled."""
    def zeros(system, optimizer, mesh, *, seed, ema):
        return jax.tree.map(lambda x: jax.device_put(np.zeros(x.shape, x.dtype), x.sharding),
                            abstract_state(system, optimizer, mesh, ema=ema))

    monkeypatch.setattr(benchmark, "matmul_rate", lambda: 1e11)
    monkeypatch.setattr(api, "new_params", random_params)
    monkeypatch.setattr(timing, "init_state", zeros)


def tiny():
    config = head_vae.get_config()
    config.system.d_ff = 8
    return config


@pytest.mark.slow
def test_rows_and_ratio(tmp_path):
    log = tmp_path / "cases.txt"
    peer = tmp_path / "peer.py"
    peer.write_text(f"import os\nopen({str(log)!r}, 'a').write(os.environ['AVJAX_CASE'] + "
                    "'\\n')\nprint('[2.0, 4.0]')\n")
    result = benchmark.benchmark(tiny(), batch=8, segment=10, lengths=[12], steps=2, runs=3,
                                 peer=f"{sys.executable} {peer}")
    json.dumps(result)
    train, sample = result["cases"]
    assert train["runs"] == 3 and train["min"] <= train["median"] <= train["max"]
    # three passes over 80 frames against one over 12
    assert train["gflop"] > 2 * sample["gflop"] > 0
    assert train["peer"]["median"] == 3.0 and train["ratio"] == pytest.approx(train["median"] / 3.0)
    cases = [json.loads(line) for line in log.read_text().splitlines()]
    assert cases[0] == {"case": "train", "batch": 8, "frames": 10}
    assert cases[-1] == {"case": "sample", "frames": 12, "steps": 2} and len(cases) == 6


def test_a_case_that_the_peer_does_not_have_has_no_ratio():
    assert benchmark.alternate(lambda: 0.5, 2, f"{sys.executable} -c 'print([])'",
                               {}) == ([0.5, 0.5], [])


@pytest.fixture
def tiny_talker():
    return flags.load_config("configs/talker_benchmark.py", {
        "system.d_model": 16, "system.velocity_width": 16, "system.num_layers": 1,
        "system.num_heads": 2, "system.num_kv_heads": 1, "system.head_dim": 8, "system.d_ff": 16,
        "system.encoder_layers": 1, "system.encoder_heads": 2, "system.velocity_layers": 1,
        "system.velocity_heads": 2, "system.vocab": 128, "system.row_tokens": 40,
        "system.row_patches": 20, "system.row_utterances": 2})


def test_talkers_training_rows_are_as_full_as_they_can_be(tiny_talker):
    system = build(tiny_talker.system)
    case = registry.benchmark("talker").training(system, Options(batch=3, frames=20, text=4))
    assert case.name == "train step 3 x 2 x 20", "two utterances of five patches fit into a row"
    assert case.describe == {"case": "train", "batch": 6, "frames": 20, "text": 4}
    batch = case.batch
    for key, spec in system.batch_spec.items():
        expected = spec.resolve(batch=3)
        assert batch[key].shape == expected.shape and batch[key].dtype == expected.dtype, key
    assert (batch["audio_valid"].sum(1) == 40).all() and (batch["segment"].max(1) == 2).all()


@pytest.mark.slow
def test_talkers_generation(tiny_talker, quick):
    cases = registry.benchmark("talker").generation(tiny_talker, 8, Options(text=4, steps=2))
    whole, first = cases
    assert whole.describe["patches"] == 2 and whole.parts == {"ms_a_patch": 0.002,
                                                              "realtime_factor": 8 / 25}
    whole, first = (timing.prepare(case, tiny_talker) for case in (whole, first))
    assert first.flops < whole.flops < 2 * first.flops, "the prompt and two slots, or one"
    whole.run()
    assert first.run() > 0


def test_a_batch_that_the_devices_do_not_divide(quick):
    with pytest.raises(UserError, match="batch"):
        benchmark.benchmark(tiny(), batch=3, segment=10, lengths=[])


def test_a_system_without_cases_of_its_own_has_the_default_ones_and_says_so():
    config = flags.load_config("configs/tavid_quickstart.py:speaker")
    system, declared, options = benchmark.prepared(config, batch=2)
    assert "tavid.speaker has no benchmark.py of its own" in benchmark.note("tavid.speaker",
                                                                            declared, options)
    (case,) = declared.cases(config, system, options)
    assert {n: x.shape for n, x in case.batch.items()} == {
        n: s.resolve(batch=2, time=345).shape for n, s in system.batch_spec.items()}
    with pytest.raises(UserError, match="named axes batch and time.*units"):
        benchmarking.Benchmark().sample(flags.load_config("configs/tavid_quickstart.py:acoustic"),
                                        9, 2)


def test_a_peer_that_prints_no_seconds():
    with pytest.raises(UserError, match="printed no seconds"):
        benchmark.run_peer(f"{sys.executable} -c 'print(\"hello\")'", {})


def test_the_loader_on_made_up_features_against_a_training():
    config = tiny()
    config.data.update(dict(batch_size=8, segment=10, threads=1))
    step, read, both = loading.measure(config, config, loading.Sizes(5, 1.0, 3))
    assert step["rows_per_second"] > 0 and 0 <= both["time_waited"] <= both["steps_that_waited"] + 1
    assert read["times_what_is_consumed"] == read["rows_per_second"] / step["rows_per_second"]
    # 8 rows of 10 frames of 7 numbers and a mask
    assert read["mb_per_second"] * 1e6 == pytest.approx(
        read["rows_per_second"] * (10 * 8 * 4 + 4), rel=1e-6)
    assert "times what is consumed" in loading.table([step, read, both]).splitlines()[1]


def test_made_up_features_have_the_system_s_shapes_and_large_frames_apart(tmp_path):
    system = build(flags.load_config("configs/tavid.py:temporal").system)
    made = loading.made_up(tmp_path / "features", system, loading.Sizes(1, 0.2))
    assert made.features["latents"].apart and not made.features["units"].apart
    [example] = made.source("train")
    assert example["latents"].shape == (5, 2, 64, 64, 4) and example["units"].shape == (10, 2)


def test_vocoding_is_timed_as_it_is_used(quick):
    config = flags.load_config("configs/vocoder.py", {
        "system.channels": 16, "system.rates": (4, 2), "system.kernels": (8, 4),
        "system.n_fft": 64, "system.bands": 8, "system.block_kernels": (3,),
        "system.dilations": ((1,),), "system.discriminators": ()})
    result = benchmark.benchmark(config, batch=0, lengths=[20], runs=2)
    [row] = result["cases"]
    assert row["name"] == "vocode 20 frames" and row["median"] > 0 and result["note"] == ""
    assert row["parts"]["realtime_factor"] == pytest.approx(row["median"] / (20 * 8 / 22050))
    # 4 and 8 samples a frame, and 12 more that a layer makes around its signal
    blocks = 2 * 2 * (3 * 8 * 8 * (80 + 12) + 3 * 4 * 4 * (160 + 12))
    ends = 2 * (7 * 8 * 16 * 20 + 7 * 4 * 160)
    ups = 2 * 2 * (16 * 4 * 8 * 21 + 8 * 2 * 4 * 81)
    assert row["gflop"] == pytest.approx((blocks + ends + ups) / 1e9)


def test_text_to_tokens_is_timed_with_its_search_apart(quick):
    config = flags.load_config("configs/avflow_text.py:small", {
        "system.encoder.width": 16, "system.encoder.layers": 0, "system.encoder.d_ff": 16,
        "system.encoder.convolutions": 1, "system.encoder.duration_width": 8,
        "system.unet.channels": (8,), "system.unet.middle": 0, "system.unet.head_width": 4})
    result = benchmark.benchmark(config, batch=8, segment=16, text=6, lengths=[12], steps=2, runs=1)
    step, search, sample = result["cases"]
    assert step["name"] == "train step 8 x 6 x 16" and step["gflop"] > sample["gflop"] > 0
    assert search["name"] == "alignment search 8 x 6 x 16"
    # it has no products, hence no row of their number
    assert 0 < search["median"] < step["median"] and "gflop" not in search
    assert sample["parts"]["realtime_factor"] == pytest.approx(
        sample["median"] / (12 / config.system.frame_rate))


@pytest.mark.parametrize("seq", [1, 4])
def test_samples_are_on_a_mesh_of_cpus_that_splits_time(seq, monkeypatch):
    config, traced, asked = tiny(), [], {}
    config.mesh.seq = seq

    def function(x):
        traced.append(dict(jax.sharding.get_abstract_mesh().shape).get("seq", 1))
        return x + 1

    case = benchmarking.Compiled(name="one", describe={}, function=function,
                                 arguments=(np.zeros(3, np.float32),))
    timing.prepare(case, config).run()
    assert traced == [seq]
    fresh = SimpleNamespace(jax_num_cpu_devices=-1, update=asked.__setitem__)
    benchmark.make_cpu_devices(config)  # conftest.py has said how many: nothing is asked
    monkeypatch.setattr(benchmark, "jax", SimpleNamespace(config=fresh))
    benchmark.make_cpu_devices(config)
    assert asked == ({"jax_num_cpu_devices": seq} if seq > 1 else {})
