"""One file is one wire format: requests out, frames in, errors in."""
