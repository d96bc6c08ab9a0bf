"""Legato: a self-hosted, OpenAI-compatible streaming chat API."""

__version__ = "0.1.0"
