"""What a chunk, a call and an open stream cost: Legato beside nginx, measured in one session."""
