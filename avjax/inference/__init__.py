"""Generation: one padding rule, one noise rule and one progress iterator for every command."""
