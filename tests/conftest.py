"""Eight fake CPU devices for every test, no forgotten deprecated mesh context, one compilation
cache a session."""

import atexit
import os
import shutil
import sys
import tempfile
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # inherited by workers and subprocesses
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="avjax_test_xla_")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
# without, XLA compiles three times faster; =true tests its default
EMITTERS = "--xla_cpu_use_fusion_emitters"
# later ones know no other way
if EMITTERS not in os.environ.get("XLA_FLAGS", "") and metadata.version("jaxlib") < "0.11":
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {EMITTERS}=false".strip()

import jax  # noqa: E402
from absl import flags  # noqa: E402

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_disallow_mesh_context_manager", True)
flags.FLAGS.mark_as_parsed()
