"""Eight fake CPU devices for every test, float32 and no forgotten deprecated mesh context."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402
from absl import flags  # noqa: E402

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_disallow_mesh_context_manager", True)
flags.FLAGS.mark_as_parsed()
