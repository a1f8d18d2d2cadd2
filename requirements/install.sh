#!/usr/bin/env bash
# Make .venv with all that `make demo` and `make test` need, and say what is installed and why. Does nothing, at
# once, where that is done; goes on where it was interrupted. A torch that it did not install stays as it is.
#
#   PROFILE=robot       only what a robot needs that records and runs exported models: no PyTorch. Kept for later calls.
#   PROFILE=desk        everything; the default for a new .venv.
#   PYTHON=python3.12   the Python to use (3.10 to 3.14); without it the first that fits.
#   ROS=jazzy           the distribution whose wheels are taken: kilted, or jazzy in .venv-jazzy.
#   tests               as argument: Chromium, too, in which the tests open pages; without it they are skipped.
#   ROS_DISTRO          set by sourcing a ROS 2: .venv then sees that ROS, and the ROS wheels from PyPI stay out.
set -euo pipefail
shopt -s inherit_errexit
cd "$(dirname "${BASH_SOURCE[0]}")/.."

ROS=${ROS:-kilted}
readonly VENV=.venv$([[ $ROS == kilted ]] || echo "-$ROS")
readonly MADE_FOR=$VENV/made-for     # folder, ROS, Python and profile this environment was made for
readonly OUR_TORCH=$VENV/our-torch   # the torch that this script installed: another one is not ours to replace
readonly JETSON=/etc/nv_tegra_release # on a Jetson, "# R36 (release), REVISION: 4.3, ..." with JetPack 6
readonly INSTALLING=$VENV/installing # there while packages are installed: an interruption leaves half of one behind
readonly DONE=$VENV/setup-done       # written last: what was installed
readonly NO_BROWSER=$VENV/no-browser # Chromium could not be installed: it is not tried at each test
readonly OLDEST=10 NEWEST=$([[ $ROS == jazzy ]] && echo 13 || echo 14) # Python 3.x with wheels of everything
readonly NEEDED_GB=8

say() { echo "setup: $*" >&2; }
stop() { echo "setup: error: $*" >&2; exit 1; }

main() {
    check_wanted
    PROFILE=${PROFILE:-$(made_for_profile)}
    [[ $PROFILE == robot || $PROFILE == desk ]] || stop "expected PROFILE=robot or PROFILE=desk, found '$PROFILE'"
    is_done && return
    exec 9<"${BASH_SOURCE[0]}"
    flock --nonblock 9 || { say "waiting for another set-up of this folder to end"; flock 9; }
    is_done && return

    local python uv
    python=$(find_python)
    check_ros "$python"
    uv=$(find_uv "$python")
    make_environment "$uv" "$python"
    install_packages "$uv"
    install_libraries
    fingerprint >"$DONE.tmp" && mv "$DONE.tmp" "$DONE"
    say "done; '$VENV/bin/deal doctor' tells what can be used"
}

# --- is there anything to do? Without starting a Python.

is_done() { fits && [[ -f $DONE && $(<"$DONE") == "$(fingerprint)" ]]; }

fingerprint() {
    cat requirements/*.* setup.py setup.cfg pyproject.toml package.xml $(find config -type f | LC_ALL=C sort) launch/*.py "$MADE_FOR" | sha256sum
}

# The environment runs, and was made for this folder, this ROS and (where one is asked for) this Python.
fits() {
    [[ -x $VENV/bin/python && -f $MADE_FOR ]] || return 1
    local folder ros python
    { read -r folder; read -r ros; read -r python; } <"$MADE_FOR"
    [[ $folder == "$PWD" && $ros == "ROS ${ROS_DISTRO:-none}" && $PROFILE == "$(made_for_profile)" ]] || return 1
    [[ -z ${PYTHON:-} || $python == "$(command -v "$PYTHON")" ]]
}

# Environments of version 0.1.0 do not say: they are for a desk.
made_for_profile() {
    local profile=
    [[ ! -f $MADE_FOR ]] || profile=$(sed -n 4p "$MADE_FOR")
    echo "${profile:-desk}"
}

# --- which ROS, which Python

check_wanted() {
    [[ $ROS == kilted ]] && return
    [[ $ROS == jazzy ]] || stop "ROS=$ROS: expected kilted or jazzy, whose wheels are on PyPI"
    [[ -z ${ROS_DISTRO:-} ]] ||
        stop "ROS=jazzy asks for the wheels of PyPI, but ROS $ROS_DISTRO is sourced: use a shell without it"
}

find_python() {
    local names=(python3 python3.13 python3.12 python3.11 python3.10 python3.14) name
    if [[ -n ${PYTHON:-} ]]; then
        names=("$PYTHON")
    elif [[ -n ${ROS_DISTRO:-} ]]; then
        names=(/usr/bin/python3 python3)
    fi
    for name in "${names[@]}"; do
        if is_supported "$name" && { [[ -z ${ROS_DISTRO:-} ]] || "$name" -c "import rclpy" 2>/dev/null; }; then
            command -v "$name"
            return
        fi
    done
    if [[ -n ${ROS_DISTRO:-} ]]; then
        stop "ROS '$ROS_DISTRO' is sourced, but none of these is a Python 3.$OLDEST to 3.$NEWEST that can import its rclpy:" \
            "${names[*]}. Install ros-$ROS_DISTRO-rclpy, or use a shell without ROS: the wheels from PyPI will do."
    fi
    stop "no Python 3.$OLDEST to 3.$NEWEST among: ${names[*]}. Install one, or name it: PYTHON=/path/to/python3 make ..."
}

is_supported() { "$1" -c "import sys; sys.exit(not (3, $OLDEST) <= sys.version_info[:2] <= (3, $NEWEST))" 2>/dev/null; }

# Wheels beside an apt ROS of the same Python would mix with it as soon as someone sources it.
check_ros() {
    [[ -z ${ROS_DISTRO:-} ]] || { say "ROS $ROS_DISTRO is sourced: using it, not the wheels from PyPI"; return; }
    local version found
    version=$("$1" -c "import sys; print('%d.%d' % sys.version_info[:2])")
    for found in /opt/ros/*/{lib,local/lib}/python"$version"/{site,dist}-packages/rclpy; do
        [[ -d $found ]] || continue
        found=${found#/opt/ros/}
        stop "ROS ${found%%/*} is installed but not sourced; first: source /opt/ros/${found%%/*}/setup.bash"
    done
}

# --- uv, which installs packages fast and exactly as pinned; requirements/uv.txt has its version and hashes

find_uv() {
    if uv --version >/dev/null 2>&1; then
        command -v uv
        return
    fi
    if [[ ! -d .uv ]]; then
        rm -rf .uv.new
        if "$1" -m pip --version >/dev/null 2>&1 || install_pip "$1"; then
            say "uv (into .uv, with pip): it installs the Python packages"
            PIP_REQUIRE_VIRTUALENV=0 PIP_ROOT_USER_ACTION=ignore \
                "$1" -m pip install --quiet --disable-pip-version-check --target .uv.new \
                --require-hashes --requirement requirements/uv.txt >&2
        else
            say "uv (into .uv, an environment of its own): it installs the Python packages"
            "$1" -m venv .uv.new >&2
            .uv.new/bin/python -m pip install --quiet --disable-pip-version-check \
                --require-hashes --requirement requirements/uv.txt >&2
        fi
        touch .uv.new/COLCON_IGNORE
        mv .uv.new .uv
    fi
    echo "$PWD/.uv/bin/uv"
}

# Fails where pip is not needed after all: `python -m venv` brings its own.
install_pip() {
    if "$1" -c "import ensurepip, venv" 2>/dev/null; then return 1; fi
    install_system python3-pip "pip installs uv" && "$1" -m pip --version >/dev/null 2>&1 && return
    stop "$1 has neither pip nor ensurepip. Run 'sudo apt-get install python3-pip', or put uv on PATH."
}

# --- the environment

make_environment() {
    if [[ -e $INSTALLING ]]; then
        say "$VENV is incomplete, installing was interrupted: making it anew (what was downloaded is kept)"
        remove_environment
    elif [[ -e $VENV ]] && ! fits; then
        if [[ ! -f $MADE_FOR && -f $VENV/pyvenv.cfg ]]; then
            adopt "$2"
        else
            say "$VENV was made for another folder, ROS, Python or profile, or not to its end: making it anew"
            remove_environment
        fi
    fi
    if [[ ! -e $VENV ]]; then
        say "$VENV with $2 ($("$2" --version 2>&1))"
        warn_of_full_disk
        local options=()
        [[ -z ${ROS_DISTRO:-} ]] || options=(--system-site-packages)
        "$1" venv --quiet --python "$2" "${options[@]}" "$VENV"
        write_made_for "$2"
    fi
    rm -f "$DONE"
}

# Take an environment that someone made by hand, or whose making was interrupted, if it is as this script makes them.
adopt() {
    local version="import sys; print(sys.version)" sees_system=false
    [[ -z ${ROS_DISTRO:-} ]] || sees_system=true
    if ! grep -q "^include-system-site-packages = $sees_system" "$VENV/pyvenv.cfg" ||
        [[ $("$VENV/bin/python" -c "$version") != "$("$1" -c "$version")" ]]; then
        stop "$PWD/$VENV was not made by this script, and not for $1: move it away, or choose its Python with PYTHON=..."
    fi
    say "using the $VENV that is there"
    write_made_for "$1"
}

# Without pyvenv.cfg, what is left by an interruption is not taken for an environment.
remove_environment() { rm -f "$VENV/pyvenv.cfg" && rm -rf "$VENV"; }

write_made_for() {
    touch "$VENV/COLCON_IGNORE" # else colcon looks for packages in it
    printf '%s\n' "$PWD" "ROS ${ROS_DISTRO:-none}" "$1" "$PROFILE" >"$MADE_FOR"
}

warn_of_full_disk() {
    [[ $PROFILE == desk ]] || return 0
    local free_gb
    free_gb=$(df --output=avail --block-size=1G . | tail -n 1)
    ((free_gb >= NEEDED_GB)) || say "warning: ${free_gb// /} GB are free here, and PyTorch with CUDA takes $NEEDED_GB"
}

install_packages() {
    local pins=(requirements/pypi-ros.txt)
    [[ -z ${ROS_DISTRO:-} ]] || pins=(requirements/apt-ros.txt)
    [[ $ROS == kilted ]] || pins=(requirements/apt-ros.txt "requirements/$ROS.txt")
    [[ ! -f $JETSON ]] || pins=("$(jetson_pins)")
    take_torch_of_older_version "${pins[0]}"
    touch "$INSTALLING"
    if [[ $PROFILE == robot ]]; then
        install_for_robot "$1" "${pins[@]}"
    elif [[ ${pins[0]} == *jetpack* ]] || has_other_torch; then
        install_without_torch "$1" "${pins[@]}"
    else
        say "the packages in ${pins[*]}: PyTorch and what the project needs beside it"
        "$1" pip install --python "$VENV/bin/python" "${pins[@]/#/--requirement=}"
        seen_torch >"$OUR_TORCH"
    fi
    say "the project itself, editable"
    "$1" pip install --quiet --python "$VENV/bin/python" --no-deps --no-build-isolation --editable .
    rm "$INSTALLING"
}

# Versions as in the pins, of what setup.py asks for a robot alone. setuptools installs the project.
install_for_robot() {
    local extras=(--extra robot) uv=$1
    shift
    [[ -n ${ROS_DISTRO:-} ]] || extras+=(--extra ros)
    [[ ! -f $JETSON ]] || extras+=(--extra tensorrt)
    say "what a robot needs, in the versions of $*; no PyTorch"
    "$uv" pip install --python "$VENV/bin/python" "${@/#/--constraint=}" --requirement setup.py "${extras[@]}" setuptools
}

# The pins name all that the packages need, so that uv need not look for a torch beside them.
install_without_torch() {
    local kept=$VENV/pins-without-torch.txt uv=$1
    shift
    # Other CUDA libraries than those of that torch would be a large download, and may be loaded in their place.
    grep -vE '^(torch|torchvision|triton|nvidia-[a-z0-9-]+|cuda-(toolkit|bindings|pathfinder))==' --no-filename "$@" >"$kept"
    [[ $1 != *jetpack* ]] || cp "$1" "$kept" # has no torch, and the cuda-bindings of JetPack's CUDA
    if has_other_torch; then
        say "keeping the torch that is there, which this script did not install: $(seen_torch)"
    else
        say "no torch: install NVIDIA's for this JetPack (docs/how_to/install.md#jetson); this script will keep it"
    fi
    say "the packages in $* without PyTorch and CUDA"
    "$uv" pip install --python "$VENV/bin/python" --no-deps --requirement "$kept"
    warn_of_numpy
}

# NVIDIA's torch for JetPack 6 was built for numpy 1, and cannot make arrays beside numpy 2.
warn_of_numpy() {
    local said
    said=$("$VENV/bin/python" -c "import torch; torch.zeros(1).numpy()" 2>&1) || [[ $said != *"Numpy is not available"* ]] ||
        say "warning: the torch that is there was built for numpy 1; for it: $VENV/bin/python -m pip install 'numpy<2'"
}

jetson_pins() {
    local release
    release=$(sed -nE 's/^# R([0-9]+) .*/\1/p' "$JETSON")
    case $release in
        36) echo requirements/jetpack6.txt ;;
        38 | 39) echo requirements/jetpack7.txt ;;
        *) stop "expected a Jetson with JetPack 6 or 7 (Jetson Linux R36, R38, R39), found: $(head -n 1 "$JETSON")" ;;
    esac
}

# Version 0.1.0 did not write down which torch it installed: it was the pinned one.
take_torch_of_older_version() {
    (($(wc -l <"$MADE_FOR") == 3)) || return 0
    echo "$PROFILE" >>"$MADE_FOR"
    local pinned
    pinned=$(sed -nE 's/^torch==([^ ]+).*/\1/p' "$1")
    [[ $(seen_torch) != "torch $pinned in $PWD/$VENV/"* ]] || seen_torch >"$OUR_TORCH"
}

has_other_torch() { [[ -n $(seen_torch) && $(seen_torch) != "$(cat "$OUR_TORCH" 2>/dev/null)" ]]; }

# The torch that the environment sees, in it or in the system: version, folder, and what tells two builds apart.
seen_torch() {
    "$VENV/bin/python" - <<'PYTHON'
import hashlib, importlib.metadata, importlib.util

found = importlib.util.find_spec("torch")
if found is not None:
    try:
        distribution = importlib.metadata.distribution("torch")
        version, files = distribution.version, distribution.read_text("RECORD") or ""
    except importlib.metadata.PackageNotFoundError:
        version, files = "of unknown version", ""
    print(f"torch {version} in {(found.submodule_search_locations or ['?'])[0]}", hashlib.sha256(files.encode()).hexdigest()[:12])
PYTHON
}

# --- system libraries

install_libraries() {
    has_package pyrealsense2 && ! has_library libusb-1.0.so.0 || return 0
    install_system libusb-1.0-0 "pyrealsense2 reads RealSense cameras through it" ||
        say "without libusb everything but recording straight from a camera works; for that: sudo apt-get install libusb-1.0-0"
}

install_browser() {
    command -v chromedriver >/dev/null || [[ -e $NO_BROWSER ]] && return
    install_system chromium-driver "and Chromium: the tests open pages in it" && return
    say "without Chromium the tests of pages are skipped; for them: sudo apt-get install chromium-driver"
    touch "$NO_BROWSER"
}

has_package() { compgen -G "$VENV/lib/python3*/site-packages/$1" >/dev/null; }
has_library() { PATH=$PATH:/sbin:/usr/sbin ldconfig -p | grep -qF "$1"; }

# Fails, saying so, where there is no apt or no right to use it.
install_system() {
    local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=120)
    command -v apt-get >/dev/null || { say "$1 is missing ($2), and this system has no apt"; return 1; }
    if ((EUID != 0)); then
        sudo -n true 2>/dev/null || { say "$1 is missing ($2), and installing it needs a password"; return 1; }
        apt=(sudo -n "${apt[@]}")
    fi
    say "$1 (with apt): $2"
    "${apt[@]}" install --yes --quiet=2 --no-install-recommends "$1" >/dev/null 2>&1 && return
    "${apt[@]}" update --quiet=2 >&2 && "${apt[@]}" install --yes --quiet=2 --no-install-recommends "$1" >&2
}

main
if [[ ${1:-} == tests ]]; then
    [[ $PROFILE == desk ]] || stop "$VENV is that of a robot, without what the tests need: PROFILE=desk make setup"
    install_browser
fi
