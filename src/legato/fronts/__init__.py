"""Client formats: parse a request, write frames, aggregate, render errors. One file each."""
