"""Fields that most systems have."""

from avjax.fields import field

COMPUTE_DTYPE = field("auto", "Of matrix products; auto = bfloat16 on TPU and GPU, float32 on CPU.",
                      choices=("auto", "bfloat16", "float32", "float16"))
ATTENTION_KERNEL = field("auto", "How attention is computed; auto = banded where its windows are "
                         "a quarter of the sequence or less, else in one kernel on GPUs "
                         "(cudnn) and TPUs (splash).",
                         choices=("auto", "dense", "banded", "cudnn", "splash"))
INIT_SCALE = field(1.0 / 3.0, "Variance * fan_in of fresh kernels.", minimum=0)
REMAT = field(False, "Recomputes each block in the backward pass: less memory, a third more time.")
SCAN_LAYERS = field(False, "One compiled block for all: compiles in a fifth of the time, trains "
                    "slower (docs/compiled_programs.md).")
FRAME_RATE = field(25.0, "Frames a second.", above=0)


def system_name(name: str):
    """The field that says which system a config is of."""
    return field(name, f"Of the system, avjax/systems/{name.replace('.', '/')}.")
