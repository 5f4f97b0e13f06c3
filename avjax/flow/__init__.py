"""Flow matching: probability paths, solvers, guidance."""
