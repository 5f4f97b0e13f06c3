"""`avjax COMMAND`: which there are, what they are given, and that nothing of the current folder is
taken for ours."""

import os
import re
import signal
import subprocess
import sys

import pytest
import setuptools

from launch import ROOT, cli

STRANGER = "print('a stranger')"


def test_help_lists_every_command_in_a_line(capsys):
    assert cli.main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in ("train", "evaluate", "generate", "prepare", "extract", "plan", "submit", "weights",
                 "collect", "benchmark", "inspect"):
        assert [line for line in lines if re.match(rf"  {name} +\w.*[^:]\.$", line)], name
    assert all(len(line) <= 100 for line in lines)


def test_every_module_that_is_a_program_is_a_command():
    programs = {file.stem for file in (ROOT / "launch").glob("*.py") if "if __name__" in
                file.read_text() and file.stem != "cli"}
    assert set(cli.commands()) == programs | {"inspect"}


@pytest.mark.parametrize("word, text", [
    ("trian", "hint: avjax train"), ("plam", "hint: avjax plan"),
    ("xyzzy", "expected: prepare, extract")])
def test_an_unknown_command_gets_the_nearest(word, text, capsys):
    assert cli.main([word]) == 2
    assert text in capsys.readouterr().err


def avjax(*argv, cwd):
    """The console script's process: as pip writes it, started in a user's folder."""
    program = "import sys; from launch.cli import main; sys.exit(main())"
    return subprocess.run([sys.executable, "-P", "-c", program, *argv], cwd=cwd, text=True,
                          capture_output=True, env=os.environ | {"PYTHONPATH": str(ROOT)})


def test_a_reader_that_has_read_enough_gets_no_traceback(tmp_path):
    program = "import sys; from launch.cli import main; sys.exit(main())"
    errors = tmp_path / "errors"
    with open(errors, "wb") as stderr:
        writer = subprocess.Popen([sys.executable, "-c", program, "--help"], stdout=subprocess.PIPE,
                                  stderr=stderr, env=os.environ | {"PYTHONPATH": str(ROOT)})
        writer.stdout.close()
        assert writer.wait() == 128 + signal.SIGPIPE
    assert errors.read_text() == ""


@pytest.fixture
def strangers(tmp_path):
    """A folder with modules of the same names as ours."""
    for name in ("launch", "configs", "avjax"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(STRANGER)
    (tmp_path / "eval.py").write_text(STRANGER)
    return tmp_path


def test_a_users_own_modules_are_not_taken_for_ours(strangers):
    done = avjax("weights", "--help", cwd=strangers)
    assert "stranger" not in done.stdout + done.stderr
    assert "\navjax weights:\n" in done.stdout and "  --workdir:" in done.stdout
    assert "--topology" not in done.stdout  # a flag of another command
    child = subprocess.run([*cli.child("launch.inspect"), "nothing"], cwd=strangers, text=True,
                           capture_output=True, env=os.environ | {"PYTHONPATH": ""})
    assert child.returncode == 1, child
    assert child.stderr.startswith("error: ") and "stranger" not in child.stdout


def test_completion_of_commands_flags_and_config_keys(capsys):
    assert cli.main(["completion", "bash"]) == 0
    assert "complete -o default -F _avjax avjax" in capsys.readouterr().out
    assert cli.words("avjax tr") == ["train"]
    assert cli.words("avjax train --config=configs/quickstart.py --config.train.st") == [
        "--config.train.steps="]
    assert cli.words("avjax inspect data --j") == ["--json"]
    assert cli.words("avjax inspect da") == []


def test_the_wheel_holds_every_module_of_ours():
    packages = set(setuptools.find_packages(str(ROOT), exclude=("tests", "tests.*")))
    rooms = ("avjax", "configs", "data_pipelines", "eval", "launch")
    files = [file.relative_to(ROOT) for room in rooms for file in (ROOT / room).rglob("*")
             if file.is_file() and "__pycache__" not in file.parts]
    assert len(files) > 200
    assert not [str(file) for file in files if ".".join(file.parent.parts) not in packages]
    # see setup.py
    assert {file.suffix for file in files} <= {".py", ".css", ".html", ".js", ".json"}
