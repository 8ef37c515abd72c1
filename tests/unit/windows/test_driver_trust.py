"""A guest trusts the signer and the root that it leads to, each in its own store, and nobody else."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from tests.fixtures.signing_keys import CODE, STAMPING, make, root, rsa_key, team
from vm.windows.driver_trust import TrustStore, stores_for


def der(certificate):
    return certificate.public_bytes(Encoding.DER)


def test_a_test_certificate_goes_into_both_stores():
    alone = make("Alone", rsa_key(9)).der

    assert stores_for([alone]) == ((alone, TrustStore.ROOT), (alone, TrustStore.TRUSTED_PUBLISHER))


@pytest.mark.parametrize("backwards", [False, True])
def test_of_a_team_the_signer_is_the_publisher_and_only_the_root_is_a_root(backwards):
    """The order of certificates in a signature means nothing."""
    issuer, top = team().issuers
    carried = [team().der, der(issuer), der(top)]

    placed = stores_for(carried[::-1] if backwards else carried)

    assert set(placed) == {(der(top), TrustStore.ROOT), (team().der, TrustStore.TRUSTED_PUBLISHER)}


def test_a_root_that_the_signature_does_not_carry_is_not_replaced_by_an_issuer():
    assert stores_for([team().der, der(team().issuers[0])]) == ((team().der, TrustStore.TRUSTED_PUBLISHER),)


def test_strangers_in_the_signature_are_not_trusted():
    """Time stamp authorities, and roots that nothing here leads to, even one of the right name."""
    clock = make("Clock", rsa_key(8), usages=(STAMPING,))
    impostor = make("Test Root", rsa_key(7), usages=(), authority=True)

    placed = stores_for([team().der, clock.der, impostor.der, der(team().issuers[0])])

    assert placed == ((team().der, TrustStore.TRUSTED_PUBLISHER),)


def test_a_signer_cannot_lead_to_a_root_through_one_who_may_not_issue():
    below = make("Below", rsa_key(6), issuer=make("Leaf", rsa_key(9), usages=(CODE,)))

    stores = {store for one, store in stores_for([below.der, *map(der, below.issuers)]) if one == below.der}

    assert stores == {TrustStore.TRUSTED_PUBLISHER}


def test_a_certificate_that_comes_twice_is_placed_once():
    alone = make("Alone", rsa_key(9)).der

    assert len(stores_for([alone, alone])) == 2


def test_an_unsigned_image_needs_no_trust():
    assert stores_for([]) == ()
    assert stores_for([root().der]) == ()


def test_what_is_no_certificate_is_refused():
    with pytest.raises(ValueError, match="error parsing asn1"):
        stores_for([b"no certificate"])


@pytest.mark.parametrize(
    ("part", "other"),
    [(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x77"), (b"\x55\x1d\x13", b"\x55\x1d\x25")],
    ids=["a version that there is not", "an extension twice"],
)
def test_a_certificate_that_is_none_is_refused_as_such(part, other):
    signer = team().der
    assert part in signer

    with pytest.raises(ValueError, match=r"version|extension"):
        stores_for([signer.replace(part, other)])
