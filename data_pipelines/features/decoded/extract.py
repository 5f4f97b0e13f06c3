"""Pictures -> the same pictures, and as examples of their own what a VAE makes of them: what the
face reader learns from.

What is generated comes out of the VAE's decoder, whose pictures are not quite like drawn or
recorded ones. A reader that has seen drawn pictures alone reads lips in decoded ones with F1 .92,
one that has seen both with .99 (puppets, unknown faces). Columns are those of the pictures;
"<id>/decoded" is the copy of "<id>".
"""

import functools
import pathlib
from typing import Annotated

import numpy as np

from avjax.errors import UserError
from data_pipelines.declared import Option
from data_pipelines.features.common import clips as common
from data_pipelines.features.common import trained
from data_pipelines.store import dataset as store
from data_pipelines.store.schema import arrays_hash


def extract(
    clips_dir, out_dir, *,
    vae: Annotated[str | None, Option("workdir of a trained tavid.vae, or a published VAE's "
                                      "file")] = None,
    per_example: Annotated[int, Option("pictures that are kept of an example, spread over it",
                                       above=0)] = 40,
    name: str = "decoded", progress: bool = True,
) -> store.Dataset:
    """Writes every example of a dataset of pictures twice. A killed job resumes.

    Args:
      clips_dir: a dataset made with --features=pictures.
      out_dir: the folder to make.

    Raises:
      UserError: no pictures there, no VAE given, pictures that do not fit the VAE.
    """
    if not vae:
        raise UserError("a VAE is needed", where="--vae",
                        expected="the workdir of a trained tavid.vae, or a weights file",
                        found="nothing", hint="train configs/tavid_quickstart.py:vae first")
    store.refuse_existing(out_dir)
    pictures = common.open_clips(clips_dir, out_dir)
    common.require(pictures, ("pictures",), "extract them with --features=pictures")
    codec = trained.load_picture_codec(pathlib.Path(vae))
    codec.latent_shape(*pictures.features["pictures"].shape[1:3])
    timed = [n for n, feature in pictures.features.items() if feature.shape[:1] == (None,)]

    def example(source, i: int, decode: bool):
        row = dict(source[i])
        at = np.unique(np.linspace(0, len(row["pictures"]) - 1, per_example).astype(int))
        row |= {n: row[n][at] for n in timed}
        return row | {"id": row["id"] + "/decoded",
                      "pictures": codec.decode(codec.encode(row["pictures"]))} if decode else row

    def items(split):
        source = pictures.source(split)
        for i in range(len(source)):
            yield from (functools.partial(example, source, i, decode) for decode in (False, True))

    made_by = {**codec.recipe, "arrays": arrays_hash(codec.arrays())}
    with common.job(out_dir, pictures, "decoded", vae=vae, arrays=made_by["arrays"],
                    per_example=per_example) as job:
        return store.write_dataset(
            job, name=name, description=f"{pictures.description} As they are, and through a VAE.",
            features=pictures.features, splits={s: items(s) for s in pictures.splits},
            totals={s: 2 * n for s, n in pictures.splits.items()},
            recipes=pictures.recipes | {"decoded": made_by}, progress=progress,
            codecs={c: pictures.codec(c) for c in pictures.codecs})
