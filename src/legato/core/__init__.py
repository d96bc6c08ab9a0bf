"""The rules of a stream, sans-IO: what is legal, what is mended, what a frame looks like."""
