# What the scripts of the rig share. Sourced, by bash.
#
#   CAUSEWAY_PROJECT   the rig's name, for several beside each other
#   CAUSEWAY_IMAGES    how its images' names begin

set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
project=${CAUSEWAY_PROJECT:-causeway}
export CAUSEWAY_IMAGES=${CAUSEWAY_IMAGES:-causeway-rig}
label=com.docker.compose.project=$project
nodes="pg1 pg2 pg3"
files=(--file "$here/docker-compose.yml")

say() { echo "$(basename "$0"): $*" >&2; }
fail() {
    say "$1"
    exit "${2:-69}"
}

if docker compose version >/dev/null 2>&1; then
    program=(docker compose)
elif command -v docker-compose >/dev/null 2>&1; then
    program=(docker-compose)
else
    fail "there is neither 'docker compose' nor docker-compose"
fi
compose() { "${program[@]}" --project-name "$project" "${files[@]}" "$@"; }

# The container of a service, running or not.
container() {
    local found
    found=$(docker ps --all --quiet --filter "label=$label" \
        --filter "label=com.docker.compose.service=$1")
    if [ -z "$found" ]; then fail "there is no $1 in the rig '$project'; is it up?" 64; fi
    echo "$found"
}

# Where a service's port is published on this machine.
published() { docker port "$(container "$1")" "$2/tcp" | head -n 1; }
