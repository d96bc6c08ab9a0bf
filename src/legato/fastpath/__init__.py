"""Optional: relays text events without decoding them. Everything works the same without it."""
