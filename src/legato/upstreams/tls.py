"""TLS contexts for connections to upstreams."""

import functools
import ssl


@functools.cache
def default_context() -> ssl.SSLContext:
    """Trusts the system's certificate authorities. Cached: loading them takes longer than a
    request."""
    return ssl.create_default_context()


def context(
    ca_file: str | None, client_cert: str | None, client_key: str | None
) -> ssl.SSLContext | None:
    """A context for a deployment's TLS settings; None if none is set. With `ca_file` only its
    authorities are trusted. Raises ValueError, whose message starts with the setting."""
    if ca_file is None and client_cert is None and client_key is None:
        return None
    if client_key is not None and client_cert is None:
        raise ValueError("client_key: requires client_cert")
    try:
        created = ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ValueError(f"ca_file: {ca_file} cannot be used: {error}") from None
    if client_cert is not None:
        try:
            # Without the argument OpenSSL asks for a password at the terminal.
            created.load_cert_chain(client_cert, client_key, password="")
        except (OSError, ssl.SSLError) as error:
            files = " with client_key ".join(filter(None, (client_cert, client_key)))
            raise ValueError(f"client_cert: {files} cannot be used: {error}") from None
    return created
