"""Certificates and metrics as etcd and files give them."""

import ssl
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

from configsvc.etcd.facts import metrics, read_certificate
from tests.support.certificates import Authority


@pytest.mark.parametrize("common_name", [None, "client"])
def test_a_certificates_dates(common_name, tmp_path):
    path = Authority(tmp_path).issue("server", common_name=common_name).cert
    read = read_certificate(ssl.PEM_cert_to_DER_cert(path.read_text()))
    expected = x509.load_pem_x509_certificate(path.read_bytes())
    assert (read.not_before, read.not_after) == (expected.not_valid_before_utc, expected.not_valid_after_utc)
    assert read.has_common_name == bool(common_name)
    assert read.not_after - datetime.now(UTC) < timedelta(days=1)


def test_years_far_away(tmp_path):
    """From 2050 on dates are written in another form."""
    authority = Authority(tmp_path)
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.load_pem_x509_certificate(authority.cacert.read_bytes()).subject
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(datetime(1999, 1, 2, 3, 4, 5, tzinfo=UTC))
        .not_valid_after(datetime(2077, 1, 2, 3, 4, 5, tzinfo=UTC))
        .sign(key, hashes.SHA256())
    )
    read = read_certificate(made.public_bytes(Encoding.DER))
    assert (read.not_before.year, read.not_after.isoformat()) == (1999, "2077-01-02T03:04:05+00:00")


@pytest.mark.parametrize("size", [0, 1, 2, 10, 50, 100, 150])
def test_what_is_no_certificate(size, tmp_path):
    der = ssl.PEM_cert_to_DER_cert(Authority(tmp_path).cacert.read_text())
    with pytest.raises(ValueError):
        read_certificate(der[:size])
    with pytest.raises(ValueError):
        read_certificate(b"\x30" * size)


def test_metrics_without_labels():
    text = '# HELP etcd_a x\netcd_a 2.147483648e+09\netcd_b{x="1"} 3\netcd_c -1\ngo_d 4\netcd_e NaN\n'
    assert metrics(text) == {"etcd_a": 2147483648.0, "etcd_c": -1.0}
