"""Results of several evaluations beside each other: paired differences and their significance."""
