"""Which file --config names, and which packages a command takes, from any folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags
from ml_collections import config_flags

from avjax.errors import UserError
from launch import ROOT
from launch import flags as launch_flags

MINE = ("from configs import {base}\ndef get_config(name='mine'):\n  c = {base}.get_config()\n  "
        "c.name = name\n  return c\n")


@pytest.fixture
def away(tmp_path, monkeypatch):
    """A user's folder with a `configs` of his own, as the current one."""
    import configs

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(configs, "__path__", list(configs.__path__))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", sys.argv)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "__init__.py").touch()
    (tmp_path / "configs" / "version.2.py").write_text(MINE.format(base="sibling_of_mine"))
    (tmp_path / "configs" / "sibling_of_mine.py").write_text("from configs import base\nget_config "
                                                             "= base.get_config\n")
    yield tmp_path
    sys.modules.pop("configs.sibling_of_mine", None)


def parsed(*argv):
    """--config as a command would read it; overrides are read from sys.argv."""
    sys.argv = argv = ["command", *argv]
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values)
    launch_flags._check_config(argv, True)
    values(argv)
    return values.config


def test_the_projects_configs_are_found_from_any_folder(away):
    assert parsed("--config=configs/head_vae.py").name == "head_vae"
    assert parsed("--config", "configs/tavid_mapper.py", "--config.seed=3").seed == 3
    assert parsed("--config=configs/tavid_quickstart.py:text").name == "tavid_quickstart_text"
    assert launch_flags.load_config("configs/quickstart.py").name == "quickstart"


def test_ones_own_are_found_first_with_their_siblings(away, monkeypatch, capsys):
    assert parsed("--config=configs/version.2.py").name == "mine"
    monkeypatch.setenv("HOME", str(away))
    monkeypatch.chdir("/")
    for path in ("~/configs/version.2.py:other", away / "configs" / "version.2.py:other"):
        assert parsed(f"--config={path}").name == "other"
    assert not capsys.readouterr().err
    monkeypatch.chdir(away)
    (away / "configs" / "head_vae.py").write_text(MINE.format(base="base"))
    assert parsed("--config=configs/head_vae.py").name == "mine"
    told = capsys.readouterr().err
    assert f"config: {away}/configs/head_vae.py, not the project's {ROOT}/configs/head_vae" in told


@pytest.mark.parametrize("path, text, message", [
    ("configs", None, "no such config file; where: --config=configs; .*; found: a folder"),
    ("", None, "no such config file"),
    ("a.py", "def get_config(): return {}", "expected: a ConfigDict from get_config.*found: dict"),
    ("a.py", "x =", "found: SyntaxError"), ("a.py", "", "no attribute 'get_config'"),
    ("a.py", "import ml_collections\nget_config = ml_collections.ConfigDict",
     "lacks what every experiment has; .*data.dir")])
def test_what_is_no_config_is_told_in_a_line(away, path, text, message):
    if text is not None:
        Path(path).write_text(text)
    with pytest.raises(UserError, match=message):
        parsed(f"--config={path}")


def test_a_users_own_modules_do_not_shadow_ours(tmp_path):
    for name in ("configs", "data_pipelines", "avjax"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    (tmp_path / "launch").mkdir()
    (tmp_path / "eval.py").write_text("print('a stranger')")
    program = ("import launch.flags, avjax, configs, data_pipelines, eval; print(launch, avjax, "
               "configs, data_pipelines, eval)")
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path,
                          env=os.environ | {"PYTHONPATH": str(ROOT)},
                          capture_output=True, text=True)
    assert done.stdout.count(
        f"from '{ROOT}/") == 5 and "stranger" not in done.stdout, done.stdout + done.stderr
