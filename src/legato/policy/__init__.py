"""Decides who may call what and where a call goes. Never sees a chunk, does no I/O."""
