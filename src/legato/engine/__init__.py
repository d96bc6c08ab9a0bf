"""The local inference engine: llama.cpp in supervised child processes, and its model files."""
