"""The rules of a stream, sans-IO: what is legal, what is normalized, what a frame looks like."""
