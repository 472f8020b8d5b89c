"""Which errors of TLS mean that only an operator can help."""

import ssl

import pytest
from redis import exceptions

from listeners.errors import Refused, Unavailable
from listeners.postgres import classify
from listeners.redis_client import classified
from listeners.tls import tls_refusal


def untrusted() -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_message = "self-signed certificate."
    return error


def unusable() -> ssl.SSLError:
    error = ssl.SSLError(1, "no certificate")
    error.reason = "NO_CERTIFICATE_OR_CRL_FOUND"
    return error


def handshake_failure() -> ssl.SSLError:
    error = ssl.SSLError(1, "the peer went away in between")
    error.reason = "UNEXPECTED_EOF_WHILE_READING"
    return error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (untrusted(), "its certificate is not trusted: self-signed certificate"),
        (unusable(), "a certificate or key file that the URL names can not be used"),
        (ConnectionError('PostgreSQL server at "h:1" rejected SSL upgrade'), "it does not speak TLS"),
    ],
)
def test_no_use_trying_again(error: Exception, words: str) -> None:
    ours = classify(error, "postgresql://u:s3cret@h/d")
    assert isinstance(ours, Refused)
    assert str(ours).startswith("Postgres at postgresql://u:***@h/d: ")
    assert words in str(ours)


@pytest.mark.parametrize("error", [handshake_failure(), ConnectionError("reset"), OSError("no route")])
def test_it_may_pass(error: Exception) -> None:
    assert tls_refusal(error) is None
    assert isinstance(classify(error), Unavailable)
    assert isinstance(classified(error), Unavailable)


def test_what_redis_py_has_wrapped() -> None:
    try:
        try:
            raise untrusted()
        except OSError:
            raise exceptions.ConnectionError("Error 1 connecting to h:6379") from None
    except exceptions.ConnectionError as error:
        ours = classified(error)
    assert isinstance(ours, Refused)
    assert str(ours) == "Redis: its certificate is not trusted: self-signed certificate"


def test_nothing_is_none() -> None:
    assert tls_refusal(None) is None
