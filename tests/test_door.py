"""Who may reach a Dask cluster: certificates are asked for, and an open scheduler is warned of."""

import subprocess

import dask
import pytest

from cache.errors import ParamsError
from stages.preprocess.workers.cluster import run_on_cluster
from stages.preprocess.workers.door import require_certificates, warn_if_open

pytest.importorskip("distributed", reason='needs pip install "liver3d[cluster]"')


def with_files(ca, cert, key):
    """Dask's settings with these files."""
    names = ("ca-file", "client.cert", "client.key")
    places = zip(names, (ca, cert, key), strict=True)
    return dask.config.set({f"distributed.comm.tls.{name}": place for name, place in places})


class TestCertificates:
    @pytest.mark.parametrize("address", ["tls://127.0.0.1:8786", "wss://10.0.0.5:8786"])
    def test_an_encrypted_address_without_a_certificate_is_refused_with_the_settings(self, address):
        with with_files(None, None, None), pytest.raises(ParamsError) as caught:
            list(run_on_cluster(len, [], address=address))
        assert caught.value.where == "--scheduler"
        assert caught.value.fact == f"{address} needs a certificate, and Dask's settings name none"
        assert "DASK_DISTRIBUTED__COMM__TLS__CLIENT__KEY" in caught.value.fix

    def test_a_certificate_that_is_not_there_is_refused_with_the_reason(self, tmp_path):
        lost = str(tmp_path / "cert.pem")
        with with_files(lost, lost, lost), pytest.raises(ParamsError, match="No such file"):
            require_certificates("tls://127.0.0.1:8786")

    def test_a_file_that_is_no_certificate_is_refused_with_the_reason(self, tmp_path):
        (tmp_path / "cert.pem").write_text("no certificate")
        path = str(tmp_path / "cert.pem")
        with with_files(path, path, path), pytest.raises(ParamsError, match="cannot be read"):
            require_certificates("tls://127.0.0.1:8786")

    def test_a_certificate_that_can_be_read_is_taken(self, tmp_path):
        names = {what: str(tmp_path / f"{what}.pem") for what in ("key", "cert")}
        words = [
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=liver3d",
        ]
        try:
            subprocess.run(
                ["openssl", *words, "-keyout", names["key"], "-out", names["cert"]],
                check=True,
                capture_output=True,
            )
        except FileNotFoundError:
            pytest.skip("there is no openssl to make a certificate with")
        with with_files(names["cert"], names["cert"], names["key"]):
            require_certificates("tls://127.0.0.1:8786")

    def test_an_address_without_encryption_needs_no_certificate(self):
        with with_files(None, None, None):
            require_certificates("tcp://127.0.0.1:8786")


class TestAnOpenDoor:
    @pytest.mark.parametrize(
        "addresses",
        [
            ["tcp://10.0.0.5:8786"],
            ["10.0.0.5:8786"],
            ["ws://10.0.0.5:8786"],
            # it listens on all interfaces, and so its own address is another
            ["tcp://127.0.0.1:8786", "tcp://10.0.0.5:8786"],
        ],
    )
    def test_a_scheduler_that_others_can_reach_is_warned_of_once(self, addresses, caplog):
        warn_if_open(*addresses)
        [said] = caplog.messages
        assert said.startswith(f"the scheduler at {addresses[-1]} is open: whoever reaches it")

    @pytest.mark.parametrize(
        "address",
        ["tcp://127.0.0.1:8786", "tcp://localhost:8786", "tcp://[::1]:8786", "tls://10.0.0.5:8786"],
    )
    def test_a_scheduler_that_nobody_else_can_reach_is_not_warned_of(self, address, caplog):
        warn_if_open(address, address)
        assert caplog.messages == []
