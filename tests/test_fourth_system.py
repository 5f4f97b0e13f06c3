"""A system in a folder of its own on PYTHONPATH, the one of docs/adding_a_system.md, goes through
every command without an edit of any file here."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.workdirs import records, steps

ROOT = Path(__file__).parents[1]
LAB = ROOT / "tests" / "fourth_system"
NO_SCORES = "--config.evaluate.benchmark="  # after training; the test evaluates by itself
PATIENCE = 500  # seconds; ends a hang, no more
ENV = {"PYTHONPATH": f"{ROOT}{os.pathsep}{LAB}", "JAX_PLATFORMS": "cpu",
       "JAX_NUM_CPU_DEVICES": "1"}


def start(workdir: Path, logs: Path, *more: str, hosts: int = 2) -> list[subprocess.Popen]:
    """`launch.train` on as many fake hosts."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{s.getsockname()[1]}"
    command = [sys.executable, "-m", "launch.train", f"--config={LAB / 'configs' / 'portrait.py'}",
               f"--workdir={workdir}", *more]
    logs.mkdir()
    processes = []
    for host in range(hosts):
        env = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(hosts),
               "JAX_PROCESS_ID": str(host)}
        with (logs / f"{host}.log").open("w") as log:
            processes.append(subprocess.Popen(command, cwd=workdir.parent, stdout=log, stderr=log,
                                              env=os.environ | ENV | env))
    return processes


def text_of(logs: Path) -> str:
    return "\n".join(log.read_text()[-3000:] for log in sorted(logs.iterdir()))



@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A workdir whose job on two hosts was killed and resumed."""
    folder = tmp_path_factory.mktemp("portrait")
    workdir, end = folder / "run", time.monotonic() + PATIENCE
    killed = start(workdir, folder / "first", "--config.train.steps=1000000",
                   NO_SCORES)
    try:
        while not steps(workdir):
            assert all(p.poll() is None for p in killed), text_of(folder / "first")
            assert time.monotonic() < end, text_of(folder / "first")
            time.sleep(0.05)
    finally:
        for process in killed:
            process.send_signal(signal.SIGKILL)
            process.wait()
    before = max(step for step in steps(workdir))
    resumed = start(workdir, folder / "second", f"--config.train.steps={before + 4}",
                    NO_SCORES)
    try:
        assert [p.wait(PATIENCE) for p in resumed] == [0, 0], text_of(folder / "second")
    finally:
        for process in resumed:
            process.kill()
    assert f"step {before}" in (folder / "second" / "0.log").read_text()
    assert steps(workdir)[-1] == before + 4
    assert [r["step"] for r in records(workdir)][-4:] == [before + i for i in range(1, 5)]
    return workdir


def test_every_command_serves_a_system_of_ones_own(trained, tmp_path):
    run = subprocess.run([sys.executable, str(LAB / "commands.py"), str(trained), str(tmp_path)],
                         env=os.environ | ENV, capture_output=True, text=True, timeout=PATIENCE)
    assert run.returncode == 0, run.stderr[-3000:]
    result = json.loads(run.stdout.splitlines()[-1])
    assert 0 <= result["scores"]["F1_lips"] <= 1 and result["scores"]["FD_e"] > 0
    assert result["differ"].keys() == {"mel", "face", "head"}
    assert max(result["differ"].values()) < 1e-3 and result["streamed"]
    assert {"whole.mp4", "whole.wav", "streamed.mp4", "portrait.pt"} <= set(result["files"])
    assert result["weights"] is True and result["counted"] == "step"
    assert "portrait" in result["timed"]
    assert "system.d_model" in result["fields"]
    assert result["plan"]


def test_the_page_shows_the_files_of_the_fixture():
    page = (ROOT / "docs" / "adding_a_system.md").read_text()
    shown = dict(re.findall(r"`my_lab/([\w/]+\.py)`:\n\n```python\n(.*?)```", page, re.DOTALL))
    files = {str(p.relative_to(LAB)): p.read_text() for p in LAB.rglob("*.py")
             if p.parent != LAB and p.read_text()}
    assert shown.keys() == files.keys()
    for name, text in files.items():
        assert shown[name] == text, name
