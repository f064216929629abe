"""The TLS of connections to etcd: which files, and what is trusted.

The same on every Python: what is refused must not depend on which of them an image happens to have.
"""

import ssl
from pathlib import Path

import msgspec

from configsvc.etcd.ops import Refused


class TlsFiles(msgspec.Struct, frozen=True, kw_only=True):
    """PEM files; without any, the system's authorities are trusted and no certificate is shown."""

    cacert: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def context(self) -> ssl.SSLContext:
        """Read the files. Raises `Refused` with the file's name where that fails."""
        try:
            context = ssl.create_default_context(cafile=self.cacert)
        except (OSError, ssl.SSLError) as error:
            raise Refused(f"{self.cacert}: {error}") from error
        # Python 3.13 and later are strict by default and refuse authorities without a key usage, or certificates
        # without key identifiers. Those before, etcd, etcdctl and a few lines of openssl are not. Signature, name and
        # dates are verified all the same. The other default of 3.13 is theirs too: what the file names is trusted, root
        # or not.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        if self.cert:
            try:
                context.load_cert_chain(self.cert, self.key)
            except (OSError, ssl.SSLError) as error:
                raise Refused(f"{self.cert} with {self.key}: {error}") from error
        return context
