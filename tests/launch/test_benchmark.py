"""The benchmark measures what it says, and runs a peer in turn."""

import json
import sys

import pytest

from avjax.errors import UserError
from avjax.systems.api import build
from configs import head_vae
from launch import flags

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


def test_a_batch_that_the_devices_do_not_divide():
    with pytest.raises(UserError, match="batch"):
        benchmark.train_case(tiny(), build(tiny().system), 3, 10)


def test_a_peer_that_prints_no_seconds():
    with pytest.raises(UserError, match="printed no seconds"):
        benchmark.run_peer(f"{sys.executable} -c 'print(\"hello\")'", {})
