"""A user's own clips: the metrics of puppets, less what real video does not show.

Lip aperture would need landmarks, which no wheel carries weights for, so the face is judged by its
eigenface codes alone; words are scored by no grammar. Motion that is no face code (LIA-X) is scored
as it is.
"""

from eval.benchmarks.common.clips import ClipBenchmark


class Benchmark(ClipBenchmark):
    """Real clips: FD, Div and BC on face codes and pose, or on motion codes; mel L1, MCD."""

    name = "clips"
