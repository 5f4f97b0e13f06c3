"""Metrics that published networks judge by, a file a network (see eval/networks)."""
