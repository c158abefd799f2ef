"""Look up the packages of the lock in the index's list of known vulnerabilities: `make audit`.

Exit code 1 for a vulnerability. Where the index offers no advisories, or does not answer, that is
said, and the exit code is 0: nothing is known to be wrong.
"""

import json
import subprocess
import sys
from typing import Any

from deploy.sbom import LOCK

SECONDS = 300
TOOL = "pip-audit>=2.9,<3"
COMMAND = (
    *(sys.executable, "-m", "uv", "tool", "run", TOOL),
    *("--requirement", str(LOCK), "--require-hashes", "--disable-pip"),
    *("--progress-spinner", "off", "--format", "json", "--timeout", "10"),
)


def summarize(output: str) -> tuple[str, int]:
    """Return what the output of pip-audit says, and the exit code."""
    try:
        packages: list[dict[str, Any]] = json.loads(output)["dependencies"]
    except (ValueError, KeyError, TypeError):
        return "The advisories could not be read: pip-audit gave no result; is the index there?", 0
    audited = [package for package in packages if "skip_reason" not in package]
    found = [
        f"{package['name']} {package['version']}: {each['id']}, "
        + (f"fixed in {', '.join(each['fix_versions'])}" if each["fix_versions"] else "not fixed")
        for package in audited
        for each in package["vulns"]
    ]
    if found:
        sentence = f"{len(found)} known vulnerabilities; run `make lock` once they are fixed:"
        return "\n  ".join([sentence, *found]), 1
    if not audited:
        return "The advisories could not be read: this package index offers none.", 0
    left = len(packages) - len(audited)
    skipped = f"; the index knows nothing of {left} others" if left else ""
    return f"{len(audited)} packages have no known vulnerability{skipped}.", 0


def main() -> int:
    """Return the exit code."""
    try:
        ran = subprocess.run(COMMAND, capture_output=True, text=True, check=False, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        print(f"The advisories could not be read: no answer within {SECONDS} s.")
        return 0
    sentence, code = summarize(ran.stdout)
    print(sentence)
    if not ran.stdout and (lines := ran.stderr.strip().splitlines()):
        print(f"  {lines[-1]}")
    return code


if __name__ == "__main__":
    sys.exit(main())
