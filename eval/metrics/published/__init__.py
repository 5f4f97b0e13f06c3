"""Metrics as other works define them, beside those of this project's own definition."""
