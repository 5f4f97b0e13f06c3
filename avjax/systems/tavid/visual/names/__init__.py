"""Names of published networks and ours: a table a layout."""
