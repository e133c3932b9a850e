#!/usr/bin/env bash
# Installs what the demo and the tests need and this machine lacks, and starts none of it: no
# PostgreSQL cluster is made and no service runs afterwards. Does nothing when all is there.
set -euo pipefail

have() { command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ]; }

have_postgres() {
    local directory
    for directory in "${CAUSEWAY_PG_BIN:-}" "$(pg_config --bindir 2>/dev/null || true)" \
        /usr/lib/postgresql/*/bin ${PATH//:/ }; do
        if [ -x "$directory/initdb" ] && [ -x "$directory/postgres" ]; then return 0; fi
    done
    return 1
}

# The C interface, which is not libclang-cpp. Bindings are made with it when the SQL parser is built.
have_libclang() {
    [ -n "${LIBCLANG_PATH:-}" ] || ldconfig -p 2>/dev/null | grep -Eq 'libclang(-[0-9.]+)?\.so' ||
        compgen -G '/usr/lib/llvm-*/lib/libclang.so*' >/dev/null ||
        compgen -G '/usr/lib/llvm-*/lib/libclang-[0-9]*.so*' >/dev/null
}

have_python_driver() { /usr/bin/python3 -c 'import psycopg2' 2>/dev/null; }

# For the drivers that come from PyPI.
have_venv() { python3 -c 'import venv, ensurepip' 2>/dev/null; }

# Only where an engine runs is there something to compose.
have_compose() {
    ! timeout 20 docker info >/dev/null 2>&1 ||
        docker compose version >/dev/null 2>&1 || have docker-compose
}

# Makes the rig's base image where no registry can be reached.
have_base_image() {
    ! timeout 20 docker info >/dev/null 2>&1 || have debootstrap ||
        docker image inspect debian:bookworm-slim >/dev/null 2>&1
}

have_compiler() { have cc && have make; }

# Without the first group nothing builds or runs; without the second some tests fail, unless
# CAUSEWAY_SKIP names what they need.
needed=()
wished=()
have_compiler || needed+=(build-essential)
have_libclang || needed+=(libclang-dev)
have_postgres || needed+=(postgresql postgresql-contrib)
have psql && have pgbench || needed+=(postgresql-client)
have pgbouncer || wished+=(pgbouncer)
have etcd || wished+=(etcd-server)
have openssl || wished+=(openssl)
have prometheus && have promtool || wished+=(prometheus)
# For partitions, in network namespaces.
have ip || wished+=(iproute2)
have nft || wished+=(nftables)
have unshare || wished+=(util-linux)
have_compose || wished+=(docker-compose)
have_base_image || wished+=(debootstrap)
# A terminal for the test of `causeway top`.
have tmux || wished+=(tmux)
have_python_driver || wished+=(python3-psycopg2)
have_venv || wished+=(python3-venv)

if ! have cargo; then
    echo "setup: Rust is missing; install it from https://rustup.rs" >&2
    exit 69
fi
if [ ${#needed[@]} -eq 0 ] && [ ${#wished[@]} -eq 0 ]; then exit 0; fi

if ! have apt-get; then
    echo "setup: please install what these Debian packages hold: ${needed[*]} ${wished[*]}" >&2
    if [ ${#needed[@]} -eq 0 ]; then exit 0; else exit 69; fi
fi

as_root=()
if [ "$(id -u)" -ne 0 ]; then
    if have sudo; then as_root=(sudo); else
        echo "setup: as root, please run: apt-get install ${needed[*]} ${wished[*]}" >&2
        if [ ${#needed[@]} -eq 0 ]; then exit 0; else exit 69; fi
    fi
fi

# The server package would make a cluster and start it. Where somebody has configured
# postgresql-common already, that choice stands.
configuration=/etc/postgresql-common/createcluster.conf
if [ ! -e "$configuration" ]; then
    "${as_root[@]}" mkdir -p "$(dirname "$configuration")"
    echo 'create_main_cluster = false' | "${as_root[@]}" tee "$configuration" >/dev/null
fi

# Debian's packages start their services unless this file says no (invoke-rc.d(8)).
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
    "${as_root[@]}" chmod 755 "$policy"
    trap '"${as_root[@]}" rm -f "$policy"' EXIT
fi

install() {
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install --yes --no-install-recommends -o Dpkg::Options::=--force-confold "$@"
}

echo "setup: installing ${needed[*]} ${wished[*]}"
"${as_root[@]}" apt-get update --quiet || echo "setup: apt-get update failed; trying what is known" >&2
if [ ${#needed[@]} -gt 0 ]; then install "${needed[@]}"; fi
# Services that were not here before are not to start with the machine either.
disable() {
    case $1 in etcd-server) set -- etcd ;; esac
    if ! have systemctl || [ ! -e "/lib/systemd/system/$1.service" ]; then return 0; fi
    "${as_root[@]}" systemctl disable --quiet "$1" || true
}

for package in "${wished[@]}"; do
    if install "$package"; then disable "$package"; else
        echo "setup: no $package; tests that need it fail, unless CAUSEWAY_SKIP names it (README.md)" >&2
    fi
done
