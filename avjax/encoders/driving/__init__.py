"""Sound as what drives pictures sees it, on their clock."""
