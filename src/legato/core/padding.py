"""Padding: frames of few different sizes, so that an eavesdropper on the encrypted line learns no
token's length from its frame (contract, section 7).

A frame is filled up to the next multiple of a bucket. With what does not matter: TLS hides it,
and nobody compresses it.
"""

import secrets
from typing import Final

#: Bytes. Larger than what tokens differ by, so that nearly all frames of a stream are alike.
BUCKET: Final = 128

_OPEN: Final = b',"obfuscation":"'
_OVERHEAD: Final = len(_OPEN) + 1
_LETTERS: Final = secrets.token_hex(BUCKET).encode()
_MEMBERS: Final = [b'%b%b"' % (_OPEN, _LETTERS[:fill]) for fill in range(BUCKET)]


def member(size: int) -> bytes:
    """The member that makes a frame of `size` bytes one of a whole number of buckets."""
    return _MEMBERS[-(size + _OVERHEAD) % BUCKET]
