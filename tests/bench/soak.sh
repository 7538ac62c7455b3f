#!/bin/sh
# Builds one after the other on one daemon: memory, descriptors, mounts and threads have to come back.
#
#   tests/bench/soak.sh [BUILDS]        (1000; binaries: BIN=target/release)
#
# Every build sends a changed file, runs two steps and loads an image; half of what it makes is collected meanwhile.
# Fails if memory after the last build is more than a tenth above that after the tenth, or anything else has grown.
set -eu
builds=${1:-1000}
bin=${BIN:-target/release}
work=$(mktemp -d)
busybox=$(command -v busybox) || { echo "soak: busybox is missing (apt-get install busybox-static)" >&2; exit 1; }
daemon=

finish() {
    [ -z "$daemon" ] || kill "$daemon" 2>/dev/null || :
    wait 2>/dev/null || :
    rm -rf "$work"
}
trap finish EXIT INT TERM

cat > "$work/rbuildd.toml" <<TOML
[worker.oci]
[[worker.oci.gcpolicy]]
all = true
maxUsedSpace = "64MB"
TOML
"$bin/rbuildd" --root "$work/root" --addr "unix://$work/sock" --config "$work/rbuildd.toml" 2> "$work/log" &
daemon=$!
until [ -S "$work/sock" ]; do kill -0 "$daemon" || { cat "$work/log" >&2; exit 1; }; sleep 0.1; done

mkdir "$work/context"
cp "$busybox" "$work/context/busybox"
cat > "$work/context/Dockerfile" <<DOCKERFILE
FROM scratch
COPY busybox /bin/busybox
COPY changed /changed
RUN ["/bin/busybox", "cp", "/changed", "/copy"]
RUN --mount=type=cache,target=/cache ["/bin/busybox", "cp", "/copy", "/cache/last"]
DOCKERFILE

status() { awk -v name="$1:" '$1 == name { print $2 }' "/proc/$daemon/status"; }
descriptors() { ls "/proc/$daemon/fd" | wc -l; }
mounts() { wc -l < "/proc/$daemon/mountinfo"; }

report() {
    printf '%6d builds  memory %7d kB  descriptors %4d  mounts %4d  threads %3d  disk %5d MB\n' \
        "$1" "$(status VmRSS)" "$(descriptors)" "$(mounts)" "$(status Threads)" "$(du -sm "$work/root" | cut -f1)"
}

# The collector comes once more after ten seconds, and the threads that it used end ten seconds after it is done, which
# takes its time on a loaded machine.
settle() {
    sleep 25
    for _ in $(seq 60); do
        [ "$(status Threads)" -gt "$threads_before" ] || return 0
        sleep 2
    done
}

mounts_before=$(mounts) threads_before=$(status Threads)
n=0
while [ "$n" -lt "$builds" ]; do
    n=$((n + 1))
    head -c 100000 /dev/urandom > "$work/context/changed"
    "$bin/rbuildctl" --addr "unix://$work/sock" build --quiet -t "soak:$((n % 7))" "$work/context" > /dev/null
    case $n in
    10)
        settle
        memory=$(status VmRSS) descriptors=$(descriptors) threads=$(status Threads)
        report "$n"
        ;;
    *00) report "$n" ;;
    esac
done
settle
report "$n"
[ "$n" -ge 10 ] || exit 0
failed=0
check() { [ "$2" -le "$3" ] || { echo "soak: $1 grew: $2, at most $3 were expected" >&2; failed=1; }; }
check memory "$(status VmRSS)" "$((memory + memory / 10))"
check descriptors "$(descriptors)" "$((descriptors + 2))"
check mounts "$(mounts)" "$mounts_before"
check threads "$(status Threads)" "$((threads + 2))"
exit "$failed"
