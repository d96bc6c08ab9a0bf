"""Certificates: whom we trust, and who we say we are."""

import functools
import ssl


@functools.cache
def usual() -> ssl.SSLContext:
    """The system's authorities; shared, as reading them takes longer than a request."""
    return ssl.create_default_context()


def context(
    ca_file: str | None, client_cert: str | None, client_key: str | None
) -> ssl.SSLContext | None:
    """A context of its own where one of these is set; `ca_file` is then all that is trusted, where
    it is set. Raises ValueError that names the setting."""
    if ca_file is None and client_cert is None and client_key is None:
        return None
    if client_key is not None and client_cert is None:
        raise ValueError("client_key: goes with client_cert")
    try:
        made = ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ValueError(f"ca_file: {ca_file} cannot be used: {error}") from None
    if client_cert is not None:
        try:
            # Without a password OpenSSL would ask for one at the terminal.
            made.load_cert_chain(client_cert, client_key, password="")
        except (OSError, ssl.SSLError) as error:
            files = " with client_key ".join(filter(None, (client_cert, client_key)))
            raise ValueError(f"client_cert: {files} cannot be used: {error}") from None
    return made
