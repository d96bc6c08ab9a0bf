"""The local engine: llama.cpp in a child process."""
