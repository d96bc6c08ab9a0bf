"""The HTTP client side: connections, responses, proxies."""
