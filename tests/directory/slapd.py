"""A real OpenLDAP for the length of a test: its own folder, its own port of 127.0.0.1, TLS only."""

import datetime
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

SUFFIX = "dc=example,dc=org"
ROOT = f"cn=root,{SUFFIX}"
SERVICE = f"cn=cloister,{SUFFIX}"
PASSWORD = "a directory's password"

CONFIGURATION = """
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
modulepath /usr/lib/ldap
moduleload back_mdb
pidfile {folder}/slapd.pid
TLSCertificateFile {folder}/certificate.pem
TLSCertificateKeyFile {folder}/key.pem
# As some servers are: a name without a password is "signed in". We must not ask for that.
allow bind_anon_dn
# Nothing in the clear: a password that came so would be answered for with an error.
security tls=128
database mdb
maxsize 16777216
suffix "{suffix}"
rootdn "{root}"
rootpw "{password}"
directory {folder}/data
access to attrs=userPassword by anonymous auth by * none
access to * by dn.exact="{service}" read by * none
"""

ENTRIES = """
dn: {suffix}
objectClass: dcObject
objectClass: organization
o: Example
dc: example

dn: ou=people,{suffix}
objectClass: organizationalUnit
ou: people

dn: ou=groups,{suffix}
objectClass: organizationalUnit
ou: groups

dn: {service}
objectClass: applicationProcess
objectClass: simpleSecurityObject
cn: cloister
userPassword: {password}

dn: uid=lea,ou=people,{suffix}
objectClass: inetOrgPerson
uid: lea
cn: Lea
sn: Example
employeeType: open
userPassword: {password}

dn: uid=max,ou=people,{suffix}
objectClass: inetOrgPerson
uid: max
cn: Max
sn: Example
employeeType: open
userPassword: {password}

dn: cn=radiology-staff,ou=groups,{suffix}
objectClass: groupOfNames
cn: radiology-staff
member: uid=lea,ou=people,{suffix}

dn: cn=it,ou=groups,{suffix}
objectClass: groupOfNames
cn: it
member: uid=max,ou=people,{suffix}
"""


@dataclass(frozen=True)
class Slapd:
    ldaps: str
    ldap: str
    certificate: Path

    def change(self, ldif: str) -> None:
        """As the directory's own administrator does."""
        command = ["ldapmodify", "-x", "-H", self.ldaps, "-D", ROOT, "-w", PASSWORD]
        environment = {"LDAPTLS_CACERT": str(self.certificate), "PATH": "/usr/bin"}
        subprocess.run(
            command, input=ldif, text=True, env=environment, check=True, capture_output=True
        )


@contextmanager
def running(folder: Path) -> Iterator[Slapd]:
    program = shutil.which("slapd", path="/usr/sbin:/usr/lib/openldap:/usr/bin")
    loader = shutil.which("slapadd", path="/usr/sbin:/usr/bin")
    if program is None or loader is None or shutil.which("ldapmodify") is None:
        pytest.fail("no OpenLDAP: install it with `apt-get install -y slapd ldap-utils`")
    values = {
        "folder": folder,
        "suffix": SUFFIX,
        "root": ROOT,
        "service": SERVICE,
        "password": PASSWORD,
    }
    (folder / "data").mkdir()
    (folder / "slapd.conf").write_text(CONFIGURATION.format(**values), encoding="utf-8")
    make_certificate(folder)
    subprocess.run(
        [loader, "-f", folder / "slapd.conf"],
        input=ENTRIES.format(**values).lstrip(),
        text=True,
        check=True,
        capture_output=True,
    )
    ports = free_port(), free_port()
    addresses = f"ldaps://127.0.0.1:{ports[0]}", f"ldap://127.0.0.1:{ports[1]}"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, "-f", folder / "slapd.conf", "-h", " ".join(addresses), "-d", "0"],
            stderr=log,
        )
        try:
            wait_for(ports[0], process)
            yield Slapd(*addresses, folder / "certificate.pem")
        finally:
            process.terminate()
            process.wait(20)


def wait_for(port: int, process: "subprocess.Popen[bytes]", timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    pytest.fail("OpenLDAP did not start")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_certificate(folder: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(pem))
    (folder / "key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
