"""A scripted upstream with faults: `legato mock`."""
