# Finds and installs what the tests need beyond Cargo. Sourced by tests/run.
# shellcheck shell=bash
#
# Everything lands in $CACHE, outside the tree and without root: Debian packages are downloaded and unpacked
# there instead of being installed, so no service is started and nothing on the machine changes.
# An `install_*` function does nothing when its tool is found; a `find_*` function prints the tool's path.

readonly SOCKUDO_VERSION=5.2.0
readonly CARGO_DENY_VERSION=0.20.2
readonly CARGO_FUZZ_VERSION=0.13.1
readonly CARGO_DEB_VERSION=3.8.0
readonly AUTOBAHN_VERSION=25.10.1
# The last virtualenv that makes a Python 2.7 environment.
readonly VIRTUALENV_VERSION=20.21.1
readonly NODE_MAJOR_MIN=18
# Exit status of a step that could not run here and says why (as Automake's).
readonly SKIPPED=77

die() {
    printf 'tests/run: %s\n' "$*" >&2
    exit 1
}

have() {
    command -v "$1" >/dev/null 2>&1
}

need() {
    have "$1" || die "'$1' is missing: $2"
}

# A file's or several files' contents as one short name.
digest() {
    cat -- "$@" | cksum | tr ' ' '-'
}

# ---------------------------------------------------------------------------------------- Debian packages

# apt_extract DIR PACKAGE...: unpacks Debian packages into DIR, which appears only when complete.
apt_extract() {
    local dir=$1 work
    shift
    need apt-get "install $* by hand, on the PATH (only Debian and its kin are automatic)"
    need dpkg "install $* by hand, on the PATH"
    work=$(mktemp -d "$CACHE/tmp.XXXXXX")
    # Each step is a subshell, so this is its end, well or not. The path is expanded now: $work is local.
    # shellcheck disable=SC2064
    trap "rm -rf '$work'" EXIT
    (
        cd "$work"
        if ! apt_download "$@"; then
            [[ $(id -u) == 0 ]] || die "apt-get cannot download $*: run 'sudo apt-get update', then try again"
            apt-get -q update
            apt_download "$@" || die "apt-get cannot download $*"
        fi
        for package in ./*.deb; do dpkg -x "$package" root; done
    )
    rm -rf "$dir"
    mv "$work/root" "$dir"
}

# apt_missing PACKAGE: its name, and those of what it needs that is not installed here.
apt_missing() {
    local names
    need apt-get "install $1 by hand, on the PATH"
    names=$(apt_would_install "$1") || {
        [[ $(id -u) == 0 ]] || die "apt-get does not know $1: run 'sudo apt-get update', then try again"
        apt-get -q update >&2
        names=$(apt_would_install "$1") || die "apt-get cannot install $1"
    }
    echo "$names"
}

apt_would_install() {
    apt-get -q --print-uris --no-install-recommends install "$1" 2>/dev/null |
        sed -n "s/^'[^']*' \([^_ ]*\)_.*/\1/p" | grep .
}

# As root, apt drops to a user who may not write here, and says so at length: it need not.
apt_download() {
    apt-get -q -o APT::Sandbox::User=root download "$@"
}

# ------------------------------------------------------------------------------------------------ sockudo

find_sockudo() {
    local place
    for place in "${SOCKUDO_BIN:-}" "$CACHE/sockudo-$SOCKUDO_VERSION/bin/sockudo"; do
        if [[ -n $place && -x $place ]]; then
            echo "$place"
            return
        fi
    done
}

install_sockudo() {
    [[ -z ${SOCKUDO_BIN:-} || -x $SOCKUDO_BIN ]] || die "SOCKUDO_BIN=$SOCKUDO_BIN is not an executable file"
    [[ -z $(find_sockudo) ]] || return 0
    install_protoc
    echo "building sockudo $SOCKUDO_VERSION, once: about 20 CPU-minutes"
    find_protoc_env
    # --debug: half the time to build, and enough for functional tests.
    env -u CARGO_TARGET_DIR cargo install sockudo --version "$SOCKUDO_VERSION" --locked --debug \
        --no-default-features --features local --root "$CACHE/sockudo-$SOCKUDO_VERSION"
}

install_protoc() {
    if have protoc || [[ -e $CACHE/protobuf/usr/bin/protoc ]]; then return 0; fi
    need apt-cache "install protoc (protobuf-compiler) and its include files by hand"
    local -a libraries
    # The libraries' names carry their version: ask for them.
    mapfile -t libraries < <(apt-cache depends --recurse --important protobuf-compiler libprotobuf-dev |
        grep -E '^libproto(buf|c)[0-9]' | sort -u)
    apt_extract "$CACHE/protobuf" protobuf-compiler libprotobuf-dev "${libraries[@]}"
}

# Makes Cargo's build scripts use the unpacked protoc when there is no other.
find_protoc_env() {
    have protoc && return 0
    local root=$CACHE/protobuf/usr library_path
    library_path=$(dirname "$(find "$root/lib" -name 'libprotoc.so.*' | sed -n 1p)")
    printf '#!/bin/sh\nLD_LIBRARY_PATH=%q exec %q "$@"\n' "$library_path" "$root/bin/protoc" >"$CACHE/protobuf/protoc"
    chmod +x "$CACHE/protobuf/protoc"
    export PROTOC=$CACHE/protobuf/protoc PROTOC_INCLUDE=$root/include
}

# ------------------------------------------------------------------------------------------ tools of Cargo

# find_cargo_tool CHOSEN NAME VERSION: the chosen program, or the one in the cache.
find_cargo_tool() {
    local place
    for place in "$1" "$CACHE/$2-$3/bin/$2"; do
        if [[ -n $place && -x $place ]]; then
            echo "$place"
            return
        fi
    done
}

# install_cargo_tool CHOSEN NAME VERSION OPTION...: builds it into the cache, unless it is there or another is chosen.
install_cargo_tool() {
    local chosen=$1 name=$2 version=$3
    shift 3
    [[ -z $chosen || -x $chosen ]] || die "$chosen is not an executable file"
    [[ -z $(find_cargo_tool "$chosen" "$name" "$version") ]] || return 0
    # --debug: a quarter of the time to build, and it runs for a second all the same.
    env -u CARGO_TARGET_DIR cargo install "$name" --version "$version" --locked --debug "$@" \
        --root "$CACHE/$name-$version"
}

# --------------------------------------------------------------------------------------------- cargo-deny

find_cargo_deny() {
    find_cargo_tool "${CARGO_DENY:-}" cargo-deny "$CARGO_DENY_VERSION"
}

install_cargo_deny() {
    install_cargo_tool "${CARGO_DENY:-}" cargo-deny "$CARGO_DENY_VERSION"
}

# All but the advisories: their database is on the network, and a new one must not fail an old commit.
check_dependencies() {
    "$(find_cargo_deny)" --locked --workspace check -D warnings bans licenses sources
}

# --------------------------------------------------------------------------------------------- cargo-fuzz

find_cargo_fuzz() {
    find_cargo_tool "${CARGO_FUZZ:-}" cargo-fuzz "$CARGO_FUZZ_VERSION"
}

install_cargo_fuzz() {
    install_cargo_tool "${CARGO_FUZZ:-}" cargo-fuzz "$CARGO_FUZZ_VERSION"
}

# ---------------------------------------------------------------------------------------------- cargo-deb

find_cargo_deb() {
    find_cargo_tool "${CARGO_DEB:-}" cargo-deb "$CARGO_DEB_VERSION"
}

# Its own features are xz, which is another program then, and debugging.
install_cargo_deb() {
    install_cargo_tool "${CARGO_DEB:-}" cargo-deb "$CARGO_DEB_VERSION" --no-default-features
}

# --------------------------------------------------------------------------------------- promtool, kubectl

find_promtool() {
    find_packaged "${PROMTOOL:-}" promtool "$CACHE/prometheus"
}

install_promtool() {
    [[ -n $(find_promtool) ]] || apt_extract "$CACHE/prometheus" prometheus
    "$(find_promtool)" --version 2>&1 | sed -n 1p
}

find_kubectl() {
    find_packaged "${KUBECTL:-}" kubectl "$CACHE/kubernetes-client"
}

install_kubectl() {
    [[ -n $(find_kubectl) ]] || apt_extract "$CACHE/kubernetes-client" kubernetes-client
    "$(find_kubectl)" version --client 2>&1 | sed -n 1p
}

# Unpacked, they need to be told where their libraries and modules are.
find_haproxy() {
    find_packaged "${HAPROXY:-}" haproxy "$CACHE/haproxy"
}

install_haproxy() {
    if [[ -z $(find_haproxy) ]]; then
        apt_extract "$CACHE/haproxy" haproxy liblua5.3-0 libopentracing-c-wrapper0 libopentracing1
        wrapper haproxy "LD_LIBRARY_PATH=\$(echo $CACHE/haproxy/usr/lib/*-linux-*)" ""
    fi
    "$(find_haproxy)" -v | sed -n 1p
}

# Not the one on the PATH: whether that has the module `stream`, and where, is its own affair.
find_nginx_bin() {
    local path=${NGINX_BIN:-$CACHE/nginx/usr/bin/nginx}
    [[ ! -x $path ]] || echo "$path"
}

install_nginx() {
    if [[ -z $(find_nginx_bin) ]]; then
        apt_extract "$CACHE/nginx" nginx libnginx-mod-stream
        wrapper nginx "" "-g 'load_module $CACHE/nginx/usr/lib/nginx/modules/ngx_stream_module.so;'"
    fi
    "$(find_nginx_bin)" -v 2>&1
}

# wrapper NAME ENVIRONMENT ARGUMENTS: how an unpacked program is started.
wrapper() {
    mkdir -p "$CACHE/$1/usr/bin"
    printf '#!/bin/sh\n%s exec %s %s "$@"\n' "$2" "$CACHE/$1/usr/sbin/$1" "$3" >"$CACHE/$1/usr/bin/$1"
    chmod +x "$CACHE/$1/usr/bin/$1"
}

find_systemd_analyze() {
    find_packaged "${SYSTEMD_ANALYZE:-}" systemd-analyze "$CACHE/systemd"
}

install_systemd_analyze() {
    [[ -n $(find_systemd_analyze) ]] || apt_extract "$CACHE/systemd" systemd
    "$(find_systemd_analyze)" --version | sed -n 1p
}

# Debian's Chromium without a window: the same engine, and half of what it needs.
find_chromium() {
    if [[ -z ${CHROMIUM:-} ]] && command -v chromium-headless-shell; then return; fi
    find_packaged "${CHROMIUM:-}" chromium "$CACHE/chromium"
}

install_chromium() {
    if [[ -z $(find_chromium) ]]; then
        local -a packages
        mapfile -t packages < <(apt_missing chromium-headless-shell)
        apt_extract "$CACHE/chromium" "${packages[@]}"
        # shellcheck disable=SC2016
        printf '#!/bin/sh\nlib=$(echo %s)\nLD_LIBRARY_PATH=$lib:$lib/pulseaudio exec %s "$@"\n' \
            "$CACHE/chromium/usr/lib/*-linux-*" "$CACHE/chromium/usr/lib/chromium/chromium-headless-shell" \
            >"$CACHE/chromium/usr/bin/chromium"
        chmod +x "$CACHE/chromium/usr/bin/chromium"
    fi
    "$(find_chromium)" --version
}

# find_packaged CHOSEN NAME DIR: the chosen path, or the one on the PATH, or the unpacked one.
find_packaged() {
    if [[ -n $1 ]]; then
        echo "$1"
    elif have "$2"; then
        command -v "$2"
    elif [[ -x $3/usr/bin/$2 ]]; then
        echo "$3/usr/bin/$2"
    fi
}

# ------------------------------------------------------------------- libraries that programs are run under

# The wall clock of a program, set by a test.
find_faketime_lib() {
    find_library "${FAKETIME_LIB:-}" libfaketimeMT.so.1
}

# What a program's names resolve to, said by a test.
find_nss_wrapper_lib() {
    find_library "${NSS_WRAPPER_LIB:-}" libnss_wrapper.so
}

install_preloads() {
    if [[ -z $(find_faketime_lib) || -z $(find_nss_wrapper_lib) ]]; then
        apt_extract "$CACHE/preload" libfaketime libnss-wrapper
    fi
    [[ -n $(find_faketime_lib) && -n $(find_nss_wrapper_lib) ]] || die "$CACHE/preload lacks a library"
}

# find_library CHOSEN NAME: the chosen path, or the unpacked one.
find_library() {
    if [[ -n $1 ]]; then
        echo "$1"
    elif [[ -d $CACHE/preload ]]; then
        find "$CACHE/preload" -name "$2" | sed -n 1p
    fi
}

# ------------------------------------------------------------------------------------------ Node packages

# Node resolves packages beside the script that imports them, so these go into the tree (ignored by git).
install_node_packages() {
    local clients=$ROOT/tests/clients stamp
    [[ -e $clients/package.json ]] || die "tests/clients/package.json is missing from the tree"
    need node "install Node.js $NODE_MAJOR_MIN or newer"
    need npm "install npm (Debian: apt-get install npm)"
    (($(node -p 'parseInt(process.versions.node)') >= NODE_MAJOR_MIN)) ||
        die "Node.js $NODE_MAJOR_MIN or newer is needed; node is $(node --version)"
    cd "$clients"
    local -a inputs=(package.json)
    [[ ! -e package-lock.json ]] || inputs+=(package-lock.json)
    stamp="$(node --version) $(digest "${inputs[@]}")"
    if [[ $(cat node_modules/.tests-run-stamp 2>/dev/null) == "$stamp" ]]; then return 0; fi
    if [[ -e package-lock.json ]]; then
        npm ci --no-audit --no-fund
    else
        npm install --no-audit --no-fund --no-package-lock
    fi
    echo "$stamp" >node_modules/.tests-run-stamp
}

# ------------------------------------------------------------------------------------------------- Python

find_python() {
    local python=${PYTHON:-$CACHE/python/bin/python}
    if "$python" -c 'import pusher, websockets, yaml' >/dev/null 2>&1; then echo "$python"; fi
}

install_python() {
    local stamp
    if [[ -n ${PYTHON:-} ]]; then
        [[ -n $(find_python) ]] || die "PYTHON=$PYTHON lacks the packages of tests/requirements.txt"
        return 0
    fi
    need python3 "install Python 3.10 or newer (Debian: apt-get install python3 python3-venv)"
    stamp="$(python3 --version) $(digest "$ROOT/tests/requirements.txt")"
    if [[ $(cat "$CACHE/python/stamp" 2>/dev/null) != "$stamp" || -z $(find_python) ]]; then
        make_venv "$CACHE/python"
        "$CACHE/python/bin/pip" install -q --disable-pip-version-check -r "$ROOT/tests/requirements.txt"
        echo "$stamp" >"$CACHE/python/stamp"
    fi
    [[ -n $(find_python) ]] || die "the Python environment in $CACHE/python does not work"
}

make_venv() {
    rm -rf "$1"
    python3 -m venv "$1" || die "python3 -m venv failed (Debian: apt-get install python3-venv)"
}

# ------------------------------------------------------------------------------------ Autobahn|Testsuite

find_wstest() {
    if [[ -n ${WSTEST:-} ]]; then
        echo "$WSTEST"
    elif [[ $(cat "$CACHE/autobahn/stamp" 2>/dev/null) == "$AUTOBAHN_VERSION" ]]; then
        echo "$CACHE/autobahn/bin/wstest"
    fi
}

install_autobahn() {
    local python2
    if [[ -n $(find_wstest) ]]; then return 0; fi
    python2=$(find_python2)
    if [[ -z $python2 ]]; then
        echo 'SKIPPED: Autobahn: needs Python 2.7 (on the PATH as python2.7, or by pyenv)'
        return "$SKIPPED"
    fi
    need python3 "virtualenv needs it"
    make_venv "$CACHE/virtualenv"
    "$CACHE/virtualenv/bin/pip" install -q --disable-pip-version-check "virtualenv==$VIRTUALENV_VERSION"
    rm -rf "$CACHE/autobahn"
    "$CACHE/virtualenv/bin/virtualenv" -q -p "$python2" "$CACHE/autobahn"
    "$CACHE/autobahn/bin/python" -m pip install -q --no-python-version-warning \
        "autobahntestsuite==$AUTOBAHN_VERSION"
    "$CACHE/autobahn/bin/wstest" --help >/dev/null || die 'wstest, just installed, does not run'
    # Written last: a half-made environment must not look like a whole one.
    echo "$AUTOBAHN_VERSION" >"$CACHE/autobahn/stamp"
}

find_python2() {
    local python
    for python in python2.7 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/2.7*/bin/python2.7; do
        # pyenv's shim stands on the PATH even when no 2.7 is chosen: only running it tells.
        if "$python" -c '' >/dev/null 2>&1; then
            echo "$python"
            return
        fi
    done
}
