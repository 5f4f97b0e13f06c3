"""Talker-T2AV at the size at which its speed is compared with the published code's on a CPU.

Run:        avjax benchmark --config=configs/talker_benchmark.py [--peer=COMMAND]
Hardware:   two CPU cores.
Sizes:      width 512; 4 language model layers, 4 layers in each head and patch encoder. A row holds
            one utterance of 8 s (50 patches) and 30 text tokens; a training step has 4 rows.
"""

from avjax.systems.talker import config as talker
from configs import base


def get_config():
    c = base.get_config()
    c.name = "talker_benchmark"
    s = c.system = talker.published()
    s.vocab = 512
    s.d_model = 512
    s.velocity_width = 512
    s.num_layers = 4
    s.num_heads = 8
    s.num_kv_heads = 4
    s.head_dim = 64
    s.d_ff = 1536
    s.encoder_layers = 4
    s.encoder_heads = 8
    s.velocity_layers = 4
    s.velocity_heads = 8
    s.row_tokens = 1 + 30 + 50
    s.row_patches = 50
    s.row_utterances = 1

    c.optimizer.learning_rate = 1e-4
    c.optimizer.b2 = 0.95
    c.optimizer.eps = 1e-8
    c.optimizer.weight_decay = 0.01
    return c
