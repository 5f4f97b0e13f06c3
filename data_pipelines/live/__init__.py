"""Streams that have not ended yet become sound and pictures, written while they come."""
