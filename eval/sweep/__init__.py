"""Results of many runs in one table: of a sweep, or of any folders."""
