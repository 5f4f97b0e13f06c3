
import numpy as np
import pytest

from data_pipelines.store import dataset as store
from data_pipelines.store.schema import Feature


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> str:
    """ArrayRecord shards of the toy System's examples."""
    rng = np.random.default_rng(0)
    features = {"id": Feature((), "str", "name"), "x": Feature((None, 8), "float32", "input"),
                "y": Feature((None, 8), "float32", "target")}

    def examples(split, count):
        for i in range(count):
            x = rng.standard_normal((3 + i % 6, 8), np.float32)
            yield {"id": f"{split}{i}", "x": x, "y": np.tanh(x[:, ::-1]).copy()}

    out = tmp_path_factory.mktemp("toy") / "data"
    store.write_dataset(out, name="toy", description="noise", features=features, recipes={},
                        progress=False,
                        splits={"train": examples("t", 24), "valid": examples("v", 16)})
    return str(out)
