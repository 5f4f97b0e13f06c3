"""Talker-T2AV at the size at which its speed is compared with the published code's on a CPU.

Run:      python -m launch.benchmark --config=configs/talker_benchmark.py [--peer=COMMAND]
Sizes:    width 512; 4 language model layers, 4 layers in each head and patch encoder. A row holds one utterance of 8 s
          (50 patches) and 30 text tokens; a training step has 4 rows.
"""

from avjax.systems.talker import config as talker
from configs import base


def get_config():
    c = base.get_config()
    c.name = "talker_benchmark"
    c.system = s = talker.released()
    s.vocab = 512
    s.d_model = s.velocity_width = 512
    s.num_layers, s.num_heads, s.num_kv_heads, s.head_dim, s.d_ff = 4, 8, 4, 64, 1536
    s.encoder_layers, s.encoder_heads, s.velocity_layers, s.velocity_heads = 4, 8, 4, 8
    s.row_tokens, s.row_patches, s.row_utterances = 1 + 30 + 50, 50, 1
    c.optimizer.learning_rate, c.optimizer.b1, c.optimizer.b2, c.optimizer.eps = 1e-4, 0.9, 0.95, 1e-8
    c.optimizer.weight_decay = 0.01
    return c
