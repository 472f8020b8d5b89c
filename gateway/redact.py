"""Takes secrets out of text that people will read: log lines and error messages."""

import re
from typing import Final

__all__ = ["redact"]

# The password ends at the last @ of the word: not everybody escapes an @, so rather too much than too little.
_URL_PASSWORD: Final = re.compile(r"(\w[\w+.-]*://[^\s:/@]*:)\S*(@)")
_PARAMETER: Final = re.compile(
    r"((?:password|passwd|sslpassword|secret|token|ticket)\s*[=:]\s*)[^&\s,;]+", re.IGNORECASE
)
_SUBPROTOCOL: Final = re.compile(r"(\bbearer\.)[\w=-]+", re.IGNORECASE)
_AUTHORIZATION: Final = re.compile(r"(\b(?:bearer|basic)\s+)[\w.~+/=-]{8,}", re.IGNORECASE)
_SIGNING_KEY: Final = re.compile(r"(\bwhsec_)[\w+/=-]+")
# What any of them needs: looking for each of them in every field costs more than the rest of a line.
_SUSPECT: Final = re.compile(r"://|passw|secret|token|ticket|bearer|basic|eyJ|whsec_", re.IGNORECASE)

# A JWT wherever it stands: its header begins with {" in base64url.
_TOKEN: Final = re.compile(r"\beyJ[\w-]{5,}\.[\w-]+\.[\w-]*")


def redact(text: str) -> str:
    """`text` without passwords of URLs and parameters, and without tokens and keys of services wherever they
    stand."""
    if not _SUSPECT.search(text):
        return text
    if "://" in text:
        text = _URL_PASSWORD.sub(r"\1***\2", text)
    for pattern in (_PARAMETER, _SUBPROTOCOL, _AUTHORIZATION, _SIGNING_KEY):
        text = pattern.sub(r"\1***", text)
    return _TOKEN.sub("***", text)
