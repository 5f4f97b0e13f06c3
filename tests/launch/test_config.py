"""python -m launch.config."""

import json
import os
import subprocess
import sys

import pytest

from launch import ROOT, config_report, overrides
from launch.flags import load_config

CONFIGS = sorted(file for file in (ROOT / "configs").glob("*.py")
                 if file.stem not in ("__init__", "base"))


def report(path, *given, form="list", **more):
    config = load_config(path)
    overrides.apply(config, given)
    return config_report.report(path, config, form, **more)


def test_a_variant_is_listed_with_its_systems_fields():
    text = report("configs/tavid.py:temporal", "system.frames=12")
    assert text.startswith("TAVID at full size") and "\nHardware:   the slices of PARTS" in text
    assert "system.frames = 12\n    Of a training row;" in text
    assert "default 14; fixed once a run has begun)" in text
    assert "system.unet.remat = 'parts'\n    What the backward pass recomputes: every layer" in text
    assert "(text; 'none' | 'layers' | 'parts'; default 'none'" in text
    assert "may change on resume unless the schedule ends at train.steps" in " ".join(text.split())
    assert "[data] What it is trained on." in text and "not documented" not in text


def test_differences_and_json_agree():
    path = "configs/quickstart.py"
    lines = report(path, "train.steps=7", form="diff").splitlines()
    assert "train.steps = 7  # default: 1000000" in lines
    assert not any(line.startswith("train.keep_last") for line in lines)
    read = json.loads(report(path, "train.steps=7", form="diff", as_json=True))
    assert read["sections"]["Run"].startswith("avjax train --config") and read["variants"] == []
    steps = {f["key"]: f for f in read["fields"]}["train.steps"]
    assert steps == {"key": "train.steps", "type": "a whole number", "value": 7,
                     "default": 1_000_000, "choices": [], "bounds": ">= 0", "changed": True,
                     "doc": "Steps of training, those before a resume included.",
                     "resume": "unscheduled", "is_section": False}


def test_other_forms():
    values = report("configs/head_vae.py", form="values").splitlines()
    assert "optimizer.b2 = 0.98" in values and "system.dropout = 0.1" in values
    files = config_report.experiments()
    assert all(f"configs/{file.name}" in files for file in CONFIGS)
    assert "FILE:VARIANT with highway, separate, shared, cascaded" in files


def test_a_systems_fields_on_pythonpath_are_listed(tmp_path):
    """The command itself, for a system and a config file of the user's own."""
    system = tmp_path / "avjax" / "systems" / "mine"
    system.mkdir(parents=True)
    (system / "__init__.py").touch()
    (system / "system.py").touch()
    (system / "config.py").write_text(
        "from avjax.fields import Section, field\n\n\nclass Config(Section):\n"
        "    name: str = field('mine', 'My own.')\n"
        "    hops: int = field(3, 'Hops a second.', minimum=1)\n")
    (tmp_path / "mine.py").write_text(
        "from avjax.systems.mine.config import Config\nfrom configs import base\n\n\n"
        "def get_config():\n    c = base.get_config()\n    c.system = Config.make()\n"
        "    return c\n")
    command = [sys.executable, "-m", "launch.config", "--config=mine.py"]

    def run(*arguments):
        return subprocess.run([*command, *arguments], cwd=tmp_path, capture_output=True, text=True,
                              env=os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"})

    done = run("--config.system.hops=4", "--diff")
    assert (done.returncode, done.stdout) == (0, "system.hops = 4  # default: 3\n"), done.stderr
    done = run("--config.system.hops=0")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == ("error: a config value is out of range; where: config.system.hops; "
                           "expected: >= 1; found: 0\n")


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_headers_have_one_form(file):
    header = config_report.read_header(file)
    assert header.title.endswith(".")
    assert {"Run", "Hardware", "Sizes"} <= header.sections.keys()
    names = list(header.sections)
    assert names == sorted(names, key=config_report.SECTIONS.index), "another order of sections"
    first = file.read_text().split('"""')[1]
    for name, body in header.sections.items():
        assert f"\n{name + ':':12}" in first, f"{name}: is to be padded to 12 columns"
        assert not body.startswith(" ")
    assert f"--config=configs/{file.name}" in header.sections["Run"]
    assert header.text.splitlines()[0] == header.title.splitlines()[0]
