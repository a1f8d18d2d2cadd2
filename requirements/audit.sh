#!/usr/bin/env bash
# What `make audit` and `make sbom` do, with tools in .venv-audit, whose versions and hashes are in audit.txt.
#
#   audit   look for risky code (bandit) and for known vulnerabilities of the pinned packages (pip-audit, needs a network)
#   sbom    write sbom.json, which lists what is installed in .venv (CycloneDX)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly TOOLS=.venv-audit
readonly PINS=requirements/audit.txt
readonly AUDITED=(requirements/{apt-ros,pypi-ros,jazzy,jetpack6,jetpack7,audit,uv}.txt)

say() { echo "audit: $*" >&2; }

main() {
    install_tools
    case ${1:-} in
        audit) audit ;;
        sbom) sbom ;;
        *) say "expected audit or sbom, found '${1:-}'"; exit 2 ;;
    esac
}

install_tools() {
    [[ ! -f $TOOLS/pins || $(<"$TOOLS/pins") != "$(sha256sum <"$PINS")" ]] || return 0
    say "$TOOLS: bandit, pip-audit and cyclonedx-bom"
    PATH=$PATH:.uv/bin uv venv --quiet --clear --python .venv/bin/python "$TOOLS"
    PATH=$PATH:.uv/bin uv pip install --quiet --python "$TOOLS/bin/python" --require-hashes --requirement "$PINS"
    touch "$TOOLS/COLCON_IGNORE"
    sha256sum <"$PINS" >"$TOOLS/pins"
}

audit() {
    local status=0
    "$TOOLS/bin/bandit" --quiet --recursive --configfile pyproject.toml --severity-level medium deal_core deal_ros training launch \
        2> >(grep -v "nosec encountered" >&2) || status=1
    audit_pins || status=1
    exit "$status"
}

# The pins name every package with its version: nothing has to be installed, or resolved, to look them up.
audit_pins() {
    local pins found
    rm -f "$TOOLS"/pins-*
    # pip-audit takes each package once, and the pins have several versions of some, for several Pythons: one list for
    # each. It takes hashes for all packages or for none.
    sed -nE 's/^([a-z0-9][^ ;]*==[^ ;]+).*/\1/p' "${AUDITED[@]}" | sort --unique |
        awk -F == -v start="$TOOLS/pins-" '{print >(start (++seen[$1]) ".txt")}'
    for pins in "$TOOLS"/pins-*.txt; do
        found=$("$TOOLS/bin/pip-audit" --progress-spinner off --no-deps --disable-pip --format json --requirement "$pins" \
            2>"$TOOLS/said") || [[ -n $found ]] || {
            say "the list of known vulnerabilities cannot be read: $(tail -n 1 "$TOOLS/said")"
            say "without a network nothing is known of the packages: run this again where there is one"
            return 1
        }
        echo "$found" >"${pins%.txt}.json"
    done
    "$TOOLS/bin/python" requirements/vulnerabilities.py "$TOOLS"/pins-*.json
}

sbom() {
    # A virtual environment is listed by its own Python; the file is the same each time, but for what is installed.
    "$TOOLS/bin/cyclonedx-py" environment --output-reproducible --output-file sbom.json .venv/bin/python
    say "sbom.json: $("$TOOLS/bin/python" -c 'import json; print(len(json.load(open("sbom.json"))["components"]))') packages"
}

main "$@"
