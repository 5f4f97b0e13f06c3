"""The benchmark measures what it says, and runs a peer in turn."""

import dataclasses
import json
import sys

import pytest

from avjax.errors import UserError
from avjax.systems.api import build
from configs import head_vae
from launch import flags
from launch.benchmarks import segments

benchmark = flags.launcher("launch.benchmark")


def tiny():
    config = head_vae.get_config()
    config.system.d_ff = 8
    return config


@pytest.mark.slow
def test_rows_and_ratio(tmp_path):
    log = tmp_path / "cases.txt"
    peer = tmp_path / "peer.py"
    peer.write_text(f"import os\nopen({str(log)!r}, 'a').write(os.environ['AVJAX_CASE'] + '\\n')\nprint('[2.0, 4.0]')\n")
    result = benchmark.benchmark(tiny(), batch=8, segment=10, lengths=[12], steps=2, runs=3,
                                 peer=f"{sys.executable} {peer}")
    json.dumps(result)
    train, sample = result["cases"]
    assert train["runs"] == 3 and train["min"] <= train["median"] <= train["max"]
    assert train["gflop"] > 2 * sample["gflop"] > 0  # three passes over 80 frames against one over 12
    assert train["peer"]["median"] == 3.0 and train["ratio"] == pytest.approx(train["median"] / 3.0)
    cases = [json.loads(line) for line in log.read_text().splitlines()]
    assert cases[0] == {"case": "train", "batch": 8, "frames": 10}
    assert cases[-1] == {"case": "sample", "frames": 12, "steps": 2} and len(cases) == 6


def test_a_case_that_the_peer_does_not_have_has_no_ratio():
    assert benchmark.alternate(lambda: 0.5, 2, f"{sys.executable} -c 'print([])'", {}) == ([0.5, 0.5], [])


@pytest.mark.slow
def test_talkers_cases():
    config = flags.load_config("configs/talker_benchmark.py", {
        "system.d_model": 16, "system.velocity_width": 16, "system.num_layers": 1, "system.num_heads": 2,
        "system.num_kv_heads": 1, "system.head_dim": 8, "system.d_ff": 16, "system.encoder_layers": 1,
        "system.encoder_heads": 2, "system.velocity_layers": 1, "system.velocity_heads": 2, "system.vocab": 128,
        "system.row_tokens": 40, "system.row_patches": 20, "system.row_utterances": 2})
    result = benchmark.benchmark(config, batch=8, segment=20, text=4, lengths=[8, 16], steps=2, runs=2)
    json.dumps(result)
    train, two, first, four, _ = result["cases"]
    assert train["name"] == "train step 8 x 2 x 20", "two utterances of five patches fit into a row"
    assert two["parts"]["ms_a_patch"] == pytest.approx(two["median"] * 1000 / 2)
    assert four["parts"]["realtime_factor"] == pytest.approx(four["median"] / (16 / 25))
    slot = (four["gflop"] - two["gflop"]) / 2
    assert 0 < first["gflop"] - slot < slot and two["gflop"] == pytest.approx(first["gflop"] + slot, rel=0.05)


def test_a_batch_that_the_devices_do_not_divide():
    with pytest.raises(UserError, match="batch"):
        next(segments.cases(tiny(), build(tiny().system), dataclasses.replace(segments.DEFAULTS, batch=3, frames=10)))


def test_a_peer_that_prints_no_seconds():
    with pytest.raises(UserError, match="printed no seconds"):
        benchmark.run_peer(f"{sys.executable} -c 'print(\"hello\")'", {})
