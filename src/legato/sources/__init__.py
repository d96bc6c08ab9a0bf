"""Where chunks come from: upstreams over HTTP, and the local engine, which is one of them."""
