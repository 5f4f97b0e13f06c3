"""report.html and the table of results."""
