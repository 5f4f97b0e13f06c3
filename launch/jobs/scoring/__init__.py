"""Around an evaluation: steps of a running training, results beside each other."""
