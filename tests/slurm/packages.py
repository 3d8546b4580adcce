"""What the cluster of these tests needs of the system, and the browser that opens MLflow's pages in others; run as a
command, this installs what is missing.

Only root can, and only by apt-get. Where it cannot, the tests on the cluster or in the browser are skipped and say
what is missing, so it is never an error. ``make test`` calls it before pytest, whose limit of time for a test is not
apt's to use up.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys

# Also where root's PATH is a user's.
SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
# Command -> its package in Debian and Ubuntu. The core packages of MariaDB have no service and make no database.
NEEDED = {
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "sbatch": "slurm-client",
    "slurmdbd": "slurmdbd",
    "munged": "munge",
    "mariadbd": "mariadb-server-core",
    "my_print_defaults": "mariadb-client-core",
    "ip": "iproute2",
    "unshare": "util-linux",
    "mount": "mount",
}
# Debian's; Ubuntu's packages of that name hold a snap, which runs in no container.
BROWSER = {"chromium": "chromium", "chromedriver": "chromium-driver"}
FOR_CLUSTER, FOR_BROWSER = "the tests on a Slurm cluster", "the test of MLflow's pages"


def missing(needed: dict[str, str] = NEEDED) -> list[str]:
    """The packages whose commands are not there."""
    return sorted({package for command, package in needed.items() if not shutil.which(command, path=SEARCH_PATH)})


def is_debian() -> bool:
    """Whether this is Debian itself."""
    try:
        return platform.freedesktop_os_release().get("ID") == "debian"
    except OSError:
        return False


def install(packages: list[str], what: str) -> None:
    """Install them; say what went wrong, if something did."""
    print("installing", *packages, "for", what, flush=True)
    for command in (
        ["apt-get", "update", "-qq"],
        ["apt-get", "install", "-qq", "--yes", "--no-install-recommends", *packages],
    ):
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        done = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        if done.returncode:
            print(done.stdout, end="")
            print(f"{' '.join(command[:2])} failed; {what} will be skipped")
            return


if __name__ == "__main__":
    if sys.platform == "linux" and os.geteuid() == 0 and shutil.which("apt-get"):
        # One by one: where the packages of one are not to be had, the others are.
        if wanted := missing():
            install(wanted, FOR_CLUSTER)
        if is_debian() and (wanted := missing(BROWSER)):
            install(wanted, FOR_BROWSER)
