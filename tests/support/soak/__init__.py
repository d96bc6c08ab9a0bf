"""Long runs against real servers, which `scripts/soak` starts."""
