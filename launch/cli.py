"""The console command: `avjax COMMAND ...` is `python -m launch.COMMAND ...`, from any folder.

A command is a module of this package that can be run as a program; `avjax inspect` is
data_pipelines/store/inspect.py. Only the chosen one is imported, so flags of the others do not
exist and `avjax --help` is quick. The current folder is not on Python's path here: nothing of the
user's there is taken for ours.
"""

import ast
import contextlib
import ctypes
import difflib
import gc
import io
import os
import re
import runpy
import signal
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
if __name__ == "__main__" and str(HERE.parent) not in sys.path:  # a child process, see `child`
    sys.path.insert(0, str(HERE.parent))

PARENT = "AVJAX_PARENT"  # the variable, see end_with_parent
PR_SET_PDEATHSIG = 1  # of Linux's prctl.h
ELSEWHERE = {"inspect": "data_pipelines.store.inspect"}
ORDER = ("prepare", "extract", "inspect", "turns", "voices", "train", "evaluate", "generate",
         "study", "weights", "config", "plan", "submit", "collect", "benchmark")
COMPLETION = '''_avjax() {
    local IFS=$'\\n'
    COMPREPLY=($(avjax completion words -- "${COMP_LINE:0:COMP_POINT}" 2>/dev/null))
    [[ ${COMPREPLY[0]} == *= ]] && compopt -o nospace
}
complete -o default -F _avjax avjax'''


def commands() -> dict[str, str]:
    """{command: module}, in the order in which they are usually needed."""
    found = {file.stem: f"launch.{file.stem}" for file in HERE.glob("*.py")
             if file.stem != "cli" and '\nif __name__ == "__main__":\n' in file.read_text("utf-8")}
    found |= ELSEWHERE
    return {name: found[name] for name in sorted(found, key=[*ORDER, *sorted(found)].index)}


def child(module: str) -> list[str]:
    """argv with which another process runs a command, whatever lies in its current folder."""
    return [sys.executable, "-P", str(HERE / "cli.py"), module.rpartition(".")[2]]


def help_text() -> str:
    """The usage, and every command with the first sentence of its module's docstring."""
    lines = [f"  {name:<12}{_summary(module)}" for name, module in commands().items()]
    lines.append(f"  {'completion':<12}Completion for bash: eval \"$(avjax completion bash)\"")
    return "\n".join(["usage: avjax COMMAND [--flag=value ...]", "", "commands:", *lines, "",
                      "avjax COMMAND --help lists the flags of one."])


def end_with_parent() -> None:
    """Where the variable PARENT names this process's parent, Linux sends SIGTERM when that is gone,
    by SIGKILL too: who starts the same command again waits for a job that is ending, instead of
    finding one that runs on."""
    if sys.platform == "linux" and os.environ.pop(PARENT, "") == str(os.getppid()):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM))


def main(argv: list[str] | None = None) -> int | None:
    """Runs one command as the program; returns an exit code, or raises SystemExit as it does."""
    try:
        try:
            return _run(argv)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # who reads has read enough: avjax inspect DIR | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


def _run(argv: list[str] | None) -> int | None:
    end_with_parent()
    argv = list(sys.argv[1:] if argv is None else argv)
    name = argv.pop(0) if argv else "--help"
    if name.lstrip("-") in ("help", "h", "helpfull", "helpshort"):
        print(help_text())
        return 0
    if name == "--version":
        from importlib import metadata

        print(f"avjax {metadata.version('avjax')}")
        return 0
    if name == "completion":
        return _completion(argv)
    known = commands()
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        print(f"error: unknown command; found: {name!r}; "
              + (f"hint: avjax {near[0]}" if near else f"expected: {', '.join(known)}"),
              file=sys.stderr)
        return 2
    sys.argv = [f"avjax {name}", *argv]
    sys.modules["__main__"].__doc__ = ast.get_docstring(ast.parse(_source(known[name])))
    if name not in ELSEWHERE:  # modules that are imported leave nothing to collect, and looking for
        gc.disable()  # it is a quarter of a command's start; launch.flags.run looks again
    try:
        runpy.run_module(known[name], run_name="__main__")
    finally:
        gc.enable()
    return None


def _source(module: str) -> str:
    return (HERE.parent / Path(*module.split("."))).with_suffix(".py").read_text("utf-8")


def _summary(module: str) -> str:
    first = (ast.get_docstring(ast.parse(_source(module))) or "").partition("\n\n")[0]
    return re.split(r":\s|[:.]$|\.\s", first)[0].replace("\n", " ") + "."


def _completion(argv: list[str]) -> int:
    if argv == ["bash"]:
        print(COMPLETION)
        return 0
    if argv[:2] == ["words", "--"] and len(argv) == 3:
        print("\n".join(words(argv[2])))
        return 0
    print("error: avjax completion knows bash only", file=sys.stderr)
    return 2


def words(line: str) -> list[str]:
    """What the last word of a command line may become: a command, a flag, a key of the config."""
    *before, last = re.split(r"\s+", line.lstrip())
    if len(before) < 2:
        return [name for name in [*commands(), "completion"] if name.startswith(last)]
    if last.startswith("--config."):
        from launch import flags, overrides

        path = next((word.partition("=")[2] for word in before if word.startswith("--config=")), "")
        keys = overrides.all_keys(flags.load_config(path or "configs/base.py"))
        found = [f"--config.{key}=" for key in keys]
    elif last.startswith("-") and before[1] in commands():
        with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.suppress(SystemExit):
            main([before[1], "--help"])
        flags_listed = re.findall(r"^ +--(\[no\])?([\w-]+)(:| [A-Z])?", text.getvalue(), re.M)
        found = [f"--{name}" + "=" * bool(value and not switch)
                 for switch, name, value in flags_listed]
    else:
        return []
    return [word for word in found if word.startswith(last)]


if __name__ == "__main__":
    sys.exit(main())
