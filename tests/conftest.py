"""Eight fake CPU devices for every test, no forgotten deprecated mesh context, one compilation
cache a session; and how long each folder's tests took."""

import atexit
import collections
import gc
import os
import shutil
import tempfile
from importlib import metadata

gc.disable()  # until all tests are imported, see pytest_collection_finish
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# A worker has a core: more threads of linear algebra would only spin while they wait for it.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy is imported
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # inherited by workers and subprocesses
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="avjax_test_xla_")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
# tiny networks take longer to compile than to run: little optimising, three times as fast
CHEAP = {"--xla_backend_optimization_level": "0", "--xla_llvm_disable_expensive_passes": "true",
         "--xla_cpu_parallel_codegen_split_count": "1"}
if metadata.version("jaxlib") < "0.11":  # later ones know no other way
    CHEAP["--xla_cpu_use_fusion_emitters"] = "false"
if "AVJAX_XLA_DEFAULTS" not in os.environ:  # inherited by workers and subprocesses
    given = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = " ".join([given, *(f"{flag}={value}" for flag, value in CHEAP.items()
                                                 if flag not in given)]).strip()
# a program's operations need not remember who called them: a fifth less time to trace one
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")

import jax  # noqa: E402
import pytest  # noqa: E402
from absl import flags  # noqa: E402

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_disallow_mesh_context_manager", True)
flags.FLAGS.mark_as_parsed()

# Files of few tests that take long, in seconds; of others a test is about one, a slow one eight.
LONG = {"tests/systems/test_contract.py": 150, "tests/sharding/test_mesh_systems.py": 110,
        "tests/planning/test_planner.py": 65, "tests/training/test_exact_resume.py": 60,
        "tests/systems/test_hallo2_golden.py": 60,
        "tests/test_fourth_system.py": 60, "tests/systems/test_vocoder_golden.py": 35}


def pytest_configure(config):
    """xdist would deal out the files with the most tests first; see below."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
    """Files that take longest come first, so that no worker begins one while the other has nothing
    left to do."""
    seconds = collections.Counter()
    for item in items:
        seconds[_file(item)] += 8 if item.get_closest_marker("slow") else 1
    items.sort(key=lambda item: -LONG.get(_file(item), seconds[_file(item)]))


def _file(item) -> str:
    return item.nodeid.partition("::")[0]


def pytest_collection_finish():
    """Tracing makes millions of objects that count down to nothing by themselves: look for cycles
    more seldom by far, and never among what is imported."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 10, 20)
    gc.enable()


@pytest.fixture(scope="module")
def one_device():
    """Jobs of launch/training.py run on one device from here to the module's end. For tests of what
    is learnt: seven more would be partitioned for, and waited for at every step."""
    from launch import training

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "make_mesh", lambda sizes, dcn=None, make=training.make_mesh: make(
            sizes, jax.devices()[:1], dcn))
        yield


def _seconds() -> tuple[float, float]:
    """(wall, CPU of this process and of its children that have ended)."""
    times = os.times()
    return times.elapsed, sum(times[:4])


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item):
    began = _seconds()
    item.user_properties.append(("began", began))
    yield


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if call.when == "teardown":
        began = dict(item.user_properties)["began"]
        spent = [now - then for now, then in zip(_seconds(), began, strict=True)]
        report.user_properties = [*report.user_properties, ("spent", spent)]


def pytest_terminal_summary(terminalreporter):
    """The time of each folder; of each file with AVJAX_TIME_BY_FILE=1."""
    by_file = os.environ.get("AVJAX_TIME_BY_FILE")
    rooms = collections.defaultdict(lambda: [0, 0.0, 0.0])
    for reports in terminalreporter.stats.values():
        for report in reports:
            spent = dict(getattr(report, "user_properties", ())).get("spent")
            if spent:
                file = report.nodeid.partition("::")[0]
                room = rooms[file if by_file else os.path.dirname(file)]
                for i, value in enumerate((1, *spent)):
                    room[i] += value
    if not rooms:
        return
    terminalreporter.section("time by file" if by_file else "time by folder")
    rooms["together"] = [sum(column) for column in zip(*rooms.values(), strict=True)]
    for name, (tests, wall, cpu) in sorted(rooms.items(), key=lambda room: room[1][2]):
        terminalreporter.write_line(f"{name:<48}{tests:5d} tests {wall:8.1f} s {cpu:8.1f} s CPU")
