"""The packages of the 36-language images: fetched with the `npm` client, verified, and read without unpacking.

None of the packages' scripts run: the needed members are read into memory by their exact names. Every archive has a
pinned SHA-512, so that the images are the same everywhere.
"""

import base64
import hashlib
import shutil
import subprocess
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

MEANWHILE = "Meanwhile, the source `emoji` has images with captions in 14 languages and needs no download."

_TIMEOUT = 900  # seconds for 17 MB, retries counted
_LARGEST = 64 * 2**20
_UNREACHABLE = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "ENETUNREACH", "EHOSTUNREACH")
_UNREACHABLE += ("ERR_SOCKET_TIMEOUT", "CERT_", "SELF_SIGNED")


@dataclass(frozen=True)
class Package:
    """One package of the npm registry.

    Attributes:
        name: in the registry.
        version: exact.
        sha512: of its archive in base64, as the registry publishes it.
        licence: SPDX name of what is taken from it.
        credit: author, origin and terms.
    """

    name: str
    version: str
    sha512: str
    licence: str
    credit: str

    @property
    def archive(self) -> str:
        """The file name that `npm pack` gives."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


ANNOTATIONS = Package(
    "cldr-annotations-full",
    "48.2.0",
    "DV7A+rEcgUSNTRsVGNGqBZRmAkGfwhGHO5Q1dRwzBoBnVrHWp804JP7/QJdEc66iHmx3+zLWVIMCFLm0lW7PUQ==",
    "Unicode-3.0",
    "Names and keywords: Unicode CLDR, © Unicode, Inc. (https://cldr.unicode.org), Unicode License V3, below.",
)
DERIVED = Package(
    "cldr-annotations-derived-full",
    "48.2.0",
    "log62km+AOzI7n/NEuNNFV0mg9DWnt67EYCh1RwxZq9dyRuyteB586LT83Ke8TchEfnwI9cIk2P31zO4nTvZmw==",
    "Unicode-3.0",
    "Names and keywords of sequences: Unicode CLDR, as above.",
)
ICONS = {
    "twemoji": Package(
        "@iconify-json/twemoji",
        "1.2.5",
        "uKpuIEV0v6K5BW3Mjdyl+XKFVAbbcPxAgifKvEMtZoUZB5+YiY5zaMm2uNNCxyXzAWU9yNLlj41WU6/mvgALsw==",
        "CC-BY-4.0",
        "Drawings: Twemoji, © Twitter, Inc and other contributors (https://github.com/jdecked/twemoji), CC BY 4.0"
        " (https://creativecommons.org/licenses/by/4.0/). Changed: rasterised and cut to the visible pixels.",
    ),
    "fluent": Package(
        "@iconify-json/fluent-emoji-flat",
        "1.2.6",
        "RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw==",
        "MIT",
        "Drawings: Fluent Emoji, © Microsoft Corporation (https://github.com/microsoft/fluentui-emoji), MIT, below.",
    ),
    "noto": Package(
        "@iconify-json/noto",
        "1.2.9",
        "DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==",
        "Apache-2.0",
        "Drawings: Noto Emoji, © Google Inc. (https://github.com/googlefonts/noto-emoji), Apache License 2.0"
        " (https://www.apache.org/licenses/LICENSE-2.0). Changed: rasterised and cut to the visible pixels.",
    ),
}
"""Drawing styles whose packages have the same layout. OpenMoji, the fourth style, is a package of Python."""


def packages() -> list[Package]:
    """All packages."""
    return [ANNOTATIONS, DERIVED, *ICONS.values()]


class FetchError(Exception):
    """Packages that cannot be fetched or used; the message has the remedy."""


def download(wanted: Iterable[Package], folder: Path) -> None:
    """Fetch archives into a folder with `npm pack`, which reads the user's own settings of registry and proxy.

    Raises:
        FetchError: npm is not installed, cannot reach its registry, or fails otherwise.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise FetchError(
            "npm is missing. Install Node.js, which brings it (https://nodejs.org, or `apt install npm`,"
            f" `brew install node`, `conda install nodejs`), and start this again. {MEANWHILE}"
        )
    specs = [f"{package.name}@{package.version}" for package in wanted]
    command = [npm, "pack", "--ignore-scripts", "--fetch-retries=1", "--fetch-retry-mintimeout=2000"]
    try:
        # in the folder, so that npm ignores the settings of a project in the current one
        done = subprocess.run(
            [*command, "--pack-destination", str(folder), *specs],
            cwd=folder,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT,
        )
    except subprocess.TimeoutExpired as error:
        raise FetchError(f"npm did not finish within {_TIMEOUT} s. Try again later. {MEANWHILE}") from error
    if done.returncode:
        raise FetchError(_failure(done.stderr))


def _failure(stderr: str) -> str:
    lines = [line for line in stderr.splitlines() if line.startswith(("npm error", "npm ERR!"))]
    details = "\n".join(lines[:4]) or stderr.strip()[-400:]
    if any(code in stderr for code in _UNREACHABLE):
        return (
            "npm cannot reach its registry. Check the network, the proxy (`npm config get proxy`) and the registry"
            " (`npm config get registry`); or fetch the archives elsewhere and give their folder as --packages."
            f" {MEANWHILE}\n{details}"
        )
    return f"npm could not fetch the packages. {MEANWHILE}\n{details}"


def read_members(folder: Path, package: Package, wanted: Iterable[str]) -> dict[str, bytes]:
    """The content of some members of a package's archive.

    Args:
        folder: of archives.
        package: whose archive.
        wanted: names without the leading `package/`.

    Raises:
        FetchError: the archive is missing, not the pinned one, damaged, or lacks a member.
    """
    path = folder / package.archive
    if not path.is_file():
        fetch = f"npm pack {package.name}@{package.version}"
        raise FetchError(f"there is no {package.archive} in {folder}. Fetch it there: {fetch}")
    _check_hash(path, package)
    names = {f"package/{name}": name for name in wanted}
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                if member.name in names and member.isreg():
                    found[names[member.name]] = _content(archive, member, path)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise FetchError(f"{path} cannot be read ({error}). Delete it and fetch it again.") from error
    missing = sorted(set(names.values()) - set(found))
    if missing:
        raise FetchError(f"{path} has no {', '.join(missing[:3])}: its layout is not the one this script knows.")
    return found


def _check_hash(path: Path, package: Package) -> None:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha512").digest()
    if base64.b64encode(digest).decode() != package.sha512:
        raise FetchError(
            f"{path} is not {package.name} {package.version} as it was published: its SHA-512 differs."
            " Delete it and fetch it again; a registry that keeps changing it cannot be trusted."
        )


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> bytes:
    if member.size > _LARGEST:
        raise FetchError(f"{path}: {member.name} has {member.size:,} bytes, more than this script reads.")
    file = archive.extractfile(member)
    return file.read() if file is not None else b""
