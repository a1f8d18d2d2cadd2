"""Say what pip-audit found, from its JSON files; exit with 1 if a package is vulnerable, or none was looked up."""

from __future__ import annotations

import json
import sys
from pathlib import Path

packages = [
    package for file in sys.argv[1:] for package in json.loads(Path(file).read_text(encoding="utf-8"))["dependencies"]
]
skipped = {package["name"] for package in packages if "skip_reason" in package}
vulnerable = {
    (package["name"], package["version"], known["id"], ", ".join(known["fix_versions"]) or "no version")
    for package in packages
    for known in package.get("vulns", ())
}
for name, version, known, fixed in sorted(vulnerable):
    print(f"audit: {name} {version}: {known}, mended in {fixed}")
looked_up = {package["name"] for package in packages} - skipped
print(f"audit: {len(looked_up)} packages looked up, {len(vulnerable)} known vulnerabilities")
if skipped:
    print(f"audit: {len(skipped)} packages are not in the list that can be reached here", file=sys.stderr)
if not looked_up:
    print("audit: nothing is known of the packages: run this again where the network reaches PyPI", file=sys.stderr)
sys.exit(bool(vulnerable) or not looked_up)
