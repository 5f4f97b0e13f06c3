"""Networks that find points of a face, its mean shape, and what its points tell."""
