"""A scripted upstream that reproduces faults: `legato mock`."""
