"""A user's own clips: the metrics of puppets, less what real video does not show.

The face is judged by its eigenface codes and pose, and, of clips with landmarks, by lips, smiles
and blinks that are read from the pictures of every variant, the truth's included. Words are scored
by no grammar. Motion that is no face code (LIA-X) is scored as it is.
"""

from eval.benchmarks.common.clips import ClipBenchmark


class Benchmark(ClipBenchmark):
    """Real clips: FD, Div and BC on face codes and pose, or on motion codes; mel L1, MCD; lips,
    smiles and blinks by landmarks."""

    name = "clips"

    def __init__(self, config, decoder, dataset, system, *, clips=None, full: bool = True):
        super().__init__(config, decoder, dataset, system, clips=clips, full=full)
        if full and not decoder.tells_lips:
            self.read_pictures(decoder.draws)
