"""Scoring runs: rows on disk, whole evaluations, the evaluation in the loop."""
