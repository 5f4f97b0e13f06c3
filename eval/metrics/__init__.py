"""Metric families, one a file. Every file carries RECIPE: the exact definition that travels with
each number."""
