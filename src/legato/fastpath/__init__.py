"""Optional: relays text chunks without decoding them."""
