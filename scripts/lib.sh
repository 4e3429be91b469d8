# shellcheck shell=bash
# What the scripts share: system packages, the Rust toolchain, Python environments. Sourced, never run.
# It must not change anything outside the project's directory but Debian packages that are missing.

set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache="$root/.cache"
mkdir -p "$cache"

say() {
    local bold='' plain=''
    if [ -t 2 ]; then bold=$'\033[1m' plain=$'\033[0m'; fi
    printf '%s==>%s %s\n' "$bold" "$plain" "$*" >&2
}
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# missing_packages: the Debian packages, one a line, that a build, the viewer and the measurements lack here.
missing_packages() {
    command -v cc >/dev/null || printf '%s\n' gcc libc6-dev
    command -v c++ >/dev/null || echo g++
    command -v make >/dev/null || echo make
    command -v python3 >/dev/null || echo python3
    python3 -c 'import venv, ensurepip' 2>/dev/null || echo python3-venv
    # a computer's clock that jumps, in tests
    compgen -G '/usr/lib/*/faketime/libfaketime.so.1' >/dev/null || echo libfaketime
    # nodes with networks and mounts of their own, in tests
    command -v ip >/dev/null || echo iproute2
    command -v unshare >/dev/null && command -v nsenter >/dev/null || echo util-linux
    command -v curl >/dev/null || printf '%s\n' curl ca-certificates
}

# need_packages: installs what missing_packages names; says what to install when it may not.
need_packages() {
    local missing as_root=()
    mapfile -t missing < <(missing_packages)
    [ ${#missing[@]} -eq 0 ] && return
    command -v apt-get >/dev/null || die "missing: ${missing[*]}; install them (these are Debian's names) and run this again"
    if [ "$(id -u)" -ne 0 ]; then
        sudo -n true 2>/dev/null || [ -t 0 ] && command -v sudo >/dev/null ||
            die "missing: ${missing[*]}; as root: apt-get install --no-install-recommends ${missing[*]}"
        as_root=(sudo)
    fi
    say "installing ${missing[*]}"
    "${as_root[@]}" apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null
}

# rust_version: the release that Cargo.toml asks for, as 1.95.
rust_version() { sed -n 's/^rust-version = "\(.*\)"/\1/p' "$root/Cargo.toml"; }

# toolchain: the release that rust-toolchain.toml names, as 1.95.0.
toolchain() { sed -n 's/^channel = "\(.*\)"/\1/p' "$root/rust-toolchain.toml"; }

# need_rust: a cargo of at least that release on PATH. A machine without any gets one below .cache/.
need_rust() {
    local wanted have own
    wanted=$(rust_version)
    if ! command -v cargo >/dev/null; then
        [ -x "$HOME/.cargo/bin/cargo" ] && export PATH="$HOME/.cargo/bin:$PATH"
    fi
    if ! command -v cargo >/dev/null; then
        export RUSTUP_HOME="$cache/rustup" CARGO_HOME="$cache/cargo"
        export PATH="$CARGO_HOME/bin:$PATH"
        if ! [ -x "$CARGO_HOME/bin/cargo" ]; then
            say "no cargo here: installing Rust $(toolchain) into .cache (rustup, minimal profile)"
            curl --proto '=https' --tlsv1.2 -sSf -o "$cache/rustup-init" \
                "https://static.rust-lang.org/rustup/dist/$(uname -m)-unknown-linux-gnu/rustup-init" &&
                chmod +x "$cache/rustup-init" &&
                "$cache/rustup-init" -q -y --no-modify-path --profile minimal \
                    --default-toolchain "$(toolchain)" -c rustfmt -c clippy >/dev/null ||
                die "Rust $(toolchain) could not be downloaded; install it (https://rustup.rs) and run this again"
        fi
    fi
    # A machine's rustup may not have the toolchain that the checkout names. Where it cannot be fetched, its own will do.
    if ! (cd "$root" && cargo --version) >/dev/null 2>&1; then
        say "rustup has no Rust $(toolchain): installing it"
        if ! rustup toolchain install "$(toolchain)" --profile minimal -c rustfmt -c clippy >/dev/null 2>&1; then
            own=$(cd / && rustup show active-toolchain 2>/dev/null | cut -d' ' -f1) || true
            [ -n "$own" ] || die "Rust $(toolchain) could not be downloaded; run: rustup toolchain install $(toolchain)"
            say "it could not be downloaded; going on with $own"
            export RUSTUP_TOOLCHAIN=$own
        fi
    fi
    have=$(cd "$root" && cargo --version | cut -d' ' -f2)
    [ "$(printf '%s\n' "$wanted" "$have" | sort -V | head -n1)" = "$wanted" ] ||
        die "Rust $wanted or newer is needed, cargo is $have; run: rustup toolchain install $wanted && rustup override set $wanted"
}

# need_venv DIR REQUIREMENT...: a Python environment that holds exactly these, made anew when the list changes.
need_venv() {
    local dir=$1 marker="$1/requirements.txt"
    shift
    if [ "$(cat "$marker" 2>/dev/null)" != "$*" ]; then
        say "python environment ${dir#"$root"/}: $*"
        rm -rf "$dir"
        python3 -m venv "$dir"
        "$dir/bin/python" -m pip install --quiet --disable-pip-version-check "$@" ||
            die "pip could not install $*; see above, and run this again"
        echo "$*" >"$marker"
    fi
}

# need_speckled: a release build of this checkout; its path in $speckled.
need_speckled() {
    say "building speckled (release; the first time takes some minutes)"
    (cd "$root" && cargo build --locked --release --quiet)
    speckled="${CARGO_TARGET_DIR:-$root/target}/release/speckled"
    [ -x "$speckled" ] || die "the build left no $speckled"
}
