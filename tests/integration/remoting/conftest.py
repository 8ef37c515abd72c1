"""A stand-in endpoint and a session with it; both are made anew for each test.

Imports stand within the fixtures: each test module first looks whether the packages are there.
"""

from __future__ import annotations

import pytest


@pytest.fixture
def standin(monkeypatch):
    from tests.standin.winrm import StandIn

    with StandIn() as made:
        # Where pyspnego's NTLM acceptor looks for the users it knows.
        monkeypatch.setenv("NTLM_USER_FILE", str(made.users_file))
        yield made


@pytest.fixture
def make_session(standin):
    """Makes sessions that are not connected yet; arguments change endpoint or credentials."""
    from vm.windows.remoting.endpoint import Credentials, Endpoint
    from vm.windows.remoting.session import GuestSession

    made = []

    def make(*, fingerprint=None, username=None, password=None, authentication="negotiate", **options):
        endpoint = Endpoint("127.0.0.1", standin.port, fingerprint or standin.certificate.fingerprint, authentication)
        credentials = Credentials(username or standin.username, password or standin.password)
        made.append(GuestSession(endpoint, credentials, **options))
        return made[-1]

    yield make
    for session in made:
        session.close()


@pytest.fixture
def session(make_session):
    connected = make_session()
    connected.connect()
    return connected
