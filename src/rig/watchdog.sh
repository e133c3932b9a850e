# Started beside a local cluster with its directory as $1 and "keep" or "remove" as $2. Standard
# input is a pipe that the cluster's process holds: a line on it means a clean end, its closing
# without one that the process was killed. Then the servers go, and the directory with them.
trap '' HUP INT TERM
if read -r _; then exit 0; fi

command_of() {
    if [ -r "/proc/$1/cmdline" ]; then tr '\0' ' ' <"/proc/$1/cmdline"
    else ps -o command= -p "$1"; fi 2>/dev/null
}

children_of() {
    if [ ! -r /proc/self/stat ]; then pgrep -P "$1"; return; fi
    for entry in /proc/[0-9]*; do
        { IFS= read -r stat <"$entry/stat"; } 2>/dev/null || continue
        rest=${stat##*) }
        parent=${rest#* }
        if [ "${parent%% *}" = "$1" ]; then echo "${entry#/proc/}"; fi
    done
}

# The agents first: they could start a server again.
for file in "$1"/*/agent.pid; do
    pid=$(head -n 1 "$file" 2>/dev/null) || continue
    case $(command_of "$pid") in *"$1"*) kill -KILL "$pid" 2>/dev/null ;; esac
done
for data in "$1"/*/data; do
    pid=$(head -n 1 "$data/postmaster.pid" 2>/dev/null) || continue
    # The number may be a stranger's by now.
    case $(command_of "$pid") in *"$data"*) ;; *) continue ;; esac
    # A frozen postmaster bears no children, so that none is missed; killed, none needs a thaw.
    kill -STOP "$pid"
    kill -KILL $(children_of "$pid") "$pid" 2>/dev/null
done
# etcd keeps no file with its number; its command line names its data. To look at each with a process of its
# own would take a second.
for file in $(grep -Flas -e "--data-dir=$1/" /proc/[0-9]*/cmdline); do
    pid=${file#/proc/}
    pid=${pid%/cmdline}
    case $(command_of "$pid") in *etcd*--data-dir="$1"/*) kill -KILL "$pid" 2>/dev/null ;; esac
done
# What PostgreSQL notices a second server by outlives a kill; marked, it goes with its last user.
for file in "$1"/*/data/postmaster.pid; do
    segment=$(sed -n 7p "$file" 2>/dev/null)
    if [ -n "$segment" ]; then ipcrm -m "${segment##* }" 2>/dev/null; fi
done
[ "$2" = remove ] || exit 0
# An initdb that was at work goes on until it misses its files, so once may not be enough.
tries=100
while [ "$tries" -gt 0 ]; do
    rm -rf -- "$1" 2>/dev/null
    sleep 0.1
    [ -e "$1" ] || exit 0
    tries=$((tries - 1))
done
