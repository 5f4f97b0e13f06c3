"""launch.plan as a user meets it: tables, JSON, and one line with the numbers where a job does not
fit."""

import json
import os
import subprocess
import sys
import types

import pytest

from avjax.errors import UserError
from avjax.planning import libtpu
from launch import flags
from launch import plan as planning


@pytest.fixture
def config():
    return flags.load_config("configs/head_vae.py", {"system.d_ff": 16})


def test_a_plan_by_shapes(config):
    data, lines, error = planning.plan(config, "v5e:4x4")
    text = "\n".join(lines)
    assert error is None and json.loads(json.dumps(data))["fits"] and data["devices"] == 16
    assert data["memory"]["parameters"] == sum(row["device_bytes"] for row in data["parameters"])
    assert "It fits" in text and "avjax[aot]" in text and "TFLOP" in text


def test_no_slice_given(config):
    with config.unlocked():
        config.plan.topology = ""
    with pytest.raises(UserError, match="no slice given.*v5e:16x16"):
        planning.plan(config)


def test_the_mesh_must_divide(config):
    with pytest.raises(UserError, match="batch does not divide"):
        planning.plan(config, "v5e:16x16")


def test_scaling_and_search(config):
    rows, lines, _ = planning.plan(config, "v5e:4x4", scaling=[16, 256, 512])
    assert [row["devices"] for row in rows] == [16, 256, 512] and rows[2]["slices"] == 2
    assert "growth" in lines[1]
    data, lines, _ = planning.plan(config, "h100:8", search=True)
    assert data["candidates"][0]["batch"] == data["batch"] and lines[0].startswith("mesh")


def test_a_program_of_another_libtpu_ends_in_a_line(config, monkeypatch):
    """JAX 0.10.2 with libtpu 0.0.48 or 0.0.52: XLA's check fails when the program is read."""
    def plan(*args, **kwargs):
        raise RuntimeError("INTERNAL: RET_CHECK failure (hlo.cc:1) unknown opcode\nmore of it")

    args = types.SimpleNamespace(
        config=config, libtpu="libtpu.so", topology="v5e:1x1", scaling=None, no_compile=False,
        slices=None, search=None, compiles=None, rows=None, thorough=None)
    monkeypatch.setattr(planning.flags, "FLAGS", args)
    monkeypatch.setattr(libtpu, "find", lambda given: given)
    monkeypatch.setattr(libtpu, "wanted", lambda: "0.0.42.*")
    monkeypatch.setattr(libtpu, "other_version",
                        lambda path: "libtpu 0.0.48, where jax 0.10.2 reads 0.0.42.*")
    monkeypatch.setattr(planning, "plan", plan)
    with pytest.raises(UserError, match="cannot be read; where: libtpu.so; expected: libtpu "
                                        "0.0.42.*; found: libtpu 0.0.48.*RET_CHECK.*pip install "
                                        "--no-deps --target=FOLDER 'libtpu==0.0.42.*'"):
        planning.main([])
    args.scaling = ["16", "many"]
    with pytest.raises(UserError, match="not numbers of chips.*found: 16,many"):
        planning.main([])
    args.scaling = None
    monkeypatch.setattr(libtpu, "other_version", lambda path: "")  # with its own, it is a defect
    with pytest.raises(RuntimeError, match="RET_CHECK"):
        planning.main([])


def test_the_command_says_why_a_job_does_not_fit():
    """One process: exit code 2, JSON alone on stdout, one line of error."""
    env = {**os.environ, "AVJAX_LIBTPU": ""}
    command = [sys.executable, "-m", "launch.plan", "--config=configs/head_vae.py",
               "--topology=v5e:2x2", "--json",
               "--no_compile", "--config.data.batch_size=4000000"]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 2, done.stderr
    assert not json.loads(done.stdout)["fits"]
    assert done.stderr.count(
        "\n") == 1 and "does not fit" in done.stderr and "--config.data.batch_size=" in done.stderr
