"""What is measured of recordings alone, without a model."""
