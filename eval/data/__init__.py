"""Examples as what is heard and seen of them."""
