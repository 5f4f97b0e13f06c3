"""Building blocks shared by the systems: attention, transformer blocks, embeddings."""
