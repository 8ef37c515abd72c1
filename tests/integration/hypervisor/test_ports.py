"""Guests' ports: reached through the hypervisor's own connection, while the guest itself reaches nobody."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from tests.fixtures import libvirtd as daemons
from tests.fixtures import tiny_linux
from tests.integration.hypervisor.conftest import settle
from vm.errors import MachineBroken, MachineConfigurationError
from vm.windows.hypervisor.guest_ports import GuestPorts
from vm.windows.hypervisor.leasing import LeaseRequest, lease_domain
from vm.windows.hypervisor.ssh_tunnel import SshTunnel
from vm.windows.hypervisor.uri import HypervisorUri

NETCAT = """\
#!/bin/sh
# libvirt asks its netcat for a way to its socket: the last argument.
for socket in "$@"; do :; done
exec {python} {relay} "$socket"
"""
RELAY = """\
import os, socket, sys, threading
way = socket.socket(socket.AF_UNIX)
way.connect(sys.argv[1])
def inward():
    while data := os.read(0, 65536):
        way.sendall(data)
    way.shutdown(socket.SHUT_WR)
threading.Thread(target=inward, daemon=True).start()
while data := way.recv(65536):
    os.write(1, data)
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def executable(path, text):
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.mark.usefixtures("nothing_left")
def test_a_guest_reaches_neither_the_host_nor_anything_else(lease):
    domain = lease()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(2)
        port = server.getsockname()[1]
        tiny_linux.ask(
            domain.address_of(22), f"echo from the guest | timeout 2 nc 10.0.2.2 {port}; echo done", timeout=30
        )
        with pytest.raises(TimeoutError):
            server.accept()
    assert tiny_linux.ask(domain.address_of(22), "echo still reached").strip() == "still reached"


@pytest.mark.usefixtures("nothing_left")
def test_only_this_computer_reaches_a_forwarded_port(lease):
    domain = lease()
    port = domain.address_of(22).port

    listening = [
        ipaddress.ip_address(int(words[1].split(":")[0], 16).to_bytes(4, sys.byteorder))
        for words in map(str.split, Path("/proc/net/tcp").read_text().splitlines()[1:])
        if int(words[1].split(":")[1], 16) == port and words[3] == "0A"
    ]

    assert listening == [ipaddress.ip_address("127.0.0.1")]


@pytest.mark.usefixtures("nothing_left")
def test_an_address_stays_until_the_domain_is_reverted(lease):
    domain = lease()
    first = domain.address_of(22)
    assert domain.address_of(22) == first

    domain.revert()

    assert tiny_linux.ask(domain.address_of(22), "echo again").strip() == "again"
    with pytest.raises(OSError, match="refused"):
        tiny_linux.ask(first, "echo nobody") if first != domain.address_of(22) else refuse()


def refuse():
    raise OSError("refused: the same port was given again")


@pytest.fixture
def ssh_server(tmp_path):
    """A real sshd for this test; gives its port and the ssh program that knows its key."""
    sshd = shutil.which("sshd", path=os.environ["PATH"] + ":/usr/sbin")
    for name in ("host", "client"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name], check=True)
    port = free_port()
    shutil.copy(tmp_path / "client.pub", tmp_path / "authorized_keys")
    config = tmp_path / "sshd_config"
    config.write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {tmp_path}/host\nPidFile {tmp_path}/sshd.pid\nUsePAM no\n"
        f"AuthorizedKeysFile {tmp_path}/authorized_keys\nStrictModes no\nPasswordAuthentication no\n"
        "PermitRootLogin prohibit-password\nMaxStartups 50\n"
    )
    key = (tmp_path / "host.pub").read_text().split()
    (tmp_path / "known_hosts").write_text(f"[127.0.0.1]:{port} {key[0]} {key[1]}\n")
    (tmp_path / "ssh_config").write_text(f"UserKnownHostsFile {tmp_path}/known_hosts\nStrictHostKeyChecking yes\n")
    program = executable(tmp_path / "ssh", f'#!/bin/sh\nexec ssh -F {tmp_path}/ssh_config "$@"\n')
    (tmp_path / "relay.py").write_text(RELAY)
    netcat = executable(tmp_path / "netcat", NETCAT.format(python=sys.executable, relay=tmp_path / "relay.py"))
    Path("/run/sshd").mkdir(exist_ok=True)
    server = subprocess.Popen([sshd, "-D", "-e", "-f", config], stderr=subprocess.DEVNULL)
    end = time.monotonic() + 10
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            break
        time.sleep(0.02)
    yield port, program, tmp_path / "client", netcat
    server.terminate()
    server.wait(10)


def ssh_uri(daemon, ssh_server, **changes):
    port, program, key, netcat = ssh_server
    found = {"keyfile": key, "command": program, "netcat": netcat, "proxy": "netcat", "socket": daemon.socket}
    found |= {"no_tty": 1, **changes}
    return f"qemu+ssh://127.0.0.1:{port}/system?" + "&".join(f"{name}={value}" for name, value in found.items())


@pytest.mark.usefixtures("nothing_left")
def test_a_hypervisor_behind_ssh_runs_a_guest_that_is_reached_over_the_same_way(daemon, ssh_server, lease):
    domain = lease(uri=ssh_uri(daemon, ssh_server))

    assert domain.address_of(22).host == "127.0.0.1"
    assert tiny_linux.ask(domain.address_of(22), "echo over ssh").strip() == "over ssh"
    assert tiny_linux.ask(domain.address_of(5986), "echo twice").strip() == "twice"
    first = domain.address_of(22)
    domain.revert()
    assert tiny_linux.ask(domain.address_of(22), "echo after a revert").strip() == "after a revert"
    domain.close()
    with pytest.raises(OSError, match="refused"):
        tiny_linux.ask(first, "echo nobody")


def test_a_tunnel_to_a_host_with_another_key_is_refused(daemon, ssh_server, tmp_path):
    (tmp_path / "known_hosts").write_text("[127.0.0.1]:1 ssh-ed25519 AAAA\n")
    tunnel = SshTunnel(HypervisorUri.parse(ssh_uri(daemon, ssh_server)))

    with pytest.raises(MachineBroken, match=r"ssh does not connect: .*Host key verification failed"):
        tunnel.forward(1)

    tunnel.close()


def test_a_tunnel_that_broke_is_made_again(daemon, ssh_server):
    with socket.create_server(("127.0.0.1", 0)) as server:
        tunnel = SshTunnel(HypervisorUri.parse(ssh_uri(daemon, ssh_server)))
        port = tunnel.forward(server.getsockname()[1])
        tunnel._master.kill()
        tunnel._master.wait()

        again = tunnel.forward(server.getsockname()[1])

        with socket.create_connection(("127.0.0.1", again), 5):
            server.settimeout(5)
            server.accept()[0].close()
        tunnel.close()
        tunnel.close()
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", port), 1).close()


def test_a_port_that_the_user_s_own_configuration_forwards_is_no_obstacle(daemon, ssh_server, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        with (tmp_path / "ssh_config").open("a") as config:
            # libvirt's own ssh has it already, with the same configuration.
            config.write(f"LocalForward 127.0.0.1:{taken} 127.0.0.1:1\n")
        tunnel = SshTunnel(HypervisorUri.parse(ssh_uri(daemon, ssh_server)))

        with socket.create_connection(("127.0.0.1", tunnel.forward(taken)), 5):
            server.settimeout(5)
            server.accept()[0].close()

        tunnel.close()


def test_a_tunnel_goes_on_however_much_ssh_complains(daemon, ssh_server):
    nobody = free_port()
    with contextlib.closing(SshTunnel(HypervisorUri.parse(ssh_uri(daemon, ssh_server)))) as tunnel:
        port = tunnel.forward(nobody)
        # ssh writes a line for each; together more than a pipe holds.
        for _ in range(1500):
            with socket.create_connection(("127.0.0.1", port), 5) as refused:
                assert refused.recv(1) == b""

        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(("127.0.0.1", tunnel.forward(server.getsockname()[1])), 5).close()
            server.settimeout(5)
            server.accept()[0].close()


def test_an_ssh_that_never_connects_is_given_up_with_what_it_said(daemon, ssh_server, tmp_path):
    silent = executable(tmp_path / "silent", "#!/bin/sh\necho waiting for the jump host >&2\nexec sleep 600\n")
    with contextlib.closing(
        SshTunnel(HypervisorUri.parse(ssh_uri(daemon, ssh_server, command=silent)), within=0.5)
    ) as tunnel:
        with pytest.raises(
            MachineBroken, match=r"ssh does not connect within 0\.5 s: waiting for the jump host; check"
        ):
            tunnel.forward(1)

        assert tunnel._master is None


def test_ports_of_a_tunnel_that_does_not_answer_are_taken_back_with_the_tunnel(daemon, ssh_server):
    with contextlib.closing(SshTunnel(HypervisorUri.parse(ssh_uri(daemon, ssh_server)), within=2.0)) as tunnel:
        port = tunnel.forward(free_port())
        tunnel._master.send_signal(signal.SIGSTOP)

        tunnel.close_forwards()

        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", port), 1).close()


def certificate(folder, name, *, issuer=None, ca=False):
    """A certificate and its key, as libvirt's PKI has them; gives both for issuing others."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[0].subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
    )
    made = builder.sign(issuer[1] if issuer else key, hashes.SHA256())
    (folder / f"{name}cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / f"{name}key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return made, key


@pytest.fixture
def tls_daemon(tmp_path):
    """A daemon that takes connections over TLS from whoever has a certificate of the test's authority."""
    pki = tmp_path / "pki"
    pki.mkdir()
    authority = certificate(pki, "ca", ca=True)
    for name in ("server", "client"):
        certificate(pki, name, issuer=authority)
    port = free_port()
    settings = "\n".join(
        (
            "listen_tls = 1",
            "listen_tcp = 0",
            f'tls_port = "{port}"',
            'listen_addr = "127.0.0.1"',
            f'key_file = "{pki}/serverkey.pem"',
            f'cert_file = "{pki}/servercert.pem"',
            f'ca_file = "{pki}/cacert.pem"',
        )
    )
    shutil.copy(pki / "cacert.pem", pki / "cacert.pem.copy")
    with daemons.private_libvirtd(tmp_path / "libvirtd", settings=settings, listen=True) as started:
        yield started, f"qemu+tls://127.0.0.1:{port}/system?pkipath={pki}"


def test_a_hypervisor_behind_tls_runs_a_guest_that_listens_where_the_uri_leads(tls_daemon, tiny, environment, tmp_path):
    _, uri = tls_daemon
    environment = {**environment, "NTPROOF_HYPERVISOR_DIR": str(tmp_path / "folder")}

    domain = lease_domain(uri, LeaseRequest(image=tiny, content_key="tests", settle=settle, slots=1), environment)

    assert domain.address_of(22).host == "127.0.0.1"
    assert tiny_linux.ask(domain.address_of(22), "echo over tls").strip() == "over tls"
    domain.close()


def test_a_client_without_the_authority_s_certificate_is_refused(tls_daemon, tmp_path):
    from vm.windows.hypervisor.connection import Connection

    _, uri = tls_daemon
    other = tmp_path / "other"
    other.mkdir()
    certificate(other, "ca", ca=True)
    certificate(other, "client")

    with pytest.raises(MachineConfigurationError, match="virsh --connect"):
        Connection.open(uri.partition("?")[0] + f"?pkipath={other}")


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("qemu+ext://host/system", "use qemu+ssh or qemu+tls"),
        ("qemu+tls://no-such-host.invalid/system", "no IPv4 address"),
    ],
)
def test_a_transport_over_which_no_port_is_reached_is_refused(uri, words):
    with pytest.raises(MachineConfigurationError) as refused:
        GuestPorts(HypervisorUri.parse(uri))

    assert words in str(refused.value)
