#!/usr/bin/env bash
# Fuzzes: run.sh TARGET SECONDS. Starts from the kept inputs and, without a finding, keeps what was learnt.
# An input that breaks a claim is left in target/fuzz/findings.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
target=${1:?which target}
seconds=${2:?how many seconds}
[ -f "$here/src/bin/$target.rs" ] || {
    echo "there is no target $target; there are: $(cd "$here/src/bin" && ls | grep -v corpus | sed 's/\.rs$//' | xargs)" >&2
    exit 2
}

# Most bytes of one input, most memory, most seconds for one input.
limits=(-max_len=4096 -rss_limit_mb=2048 -timeout=10)
out=$root/target/fuzz
work=$out/work/$target
kept=$here/corpus/$target.txt
bin=$out/release
export RUSTC_WRAPPER=$here/rustc.sh
# The versions that rbuild is built with; only the fuzzer comes on top.
cp "$root/Cargo.lock" "$here/Cargo.lock"
cargo build --release --manifest-path "$here/Cargo.toml" --target-dir "$out" --bin "$target" --bin corpus

rm -rf "$work" "$work.merged"
mkdir -p "$work" "$work.merged" "$out/findings"
[ ! -f "$kept" ] || "$bin/corpus" unpack "$kept" "$work"
case $target in
dockerfile | heredoc)
    for case in "$root"/crates/dockerfile/golden/*/Dockerfile; do
        cp "$case" "$work/golden-$(basename "$(dirname "$case")")"
    done
    ;;
esac
dictionary=()
[ ! -f "$here/dict/$target.txt" ] || dictionary=("-dict=$here/dict/$target.txt")

cd "$out"
"$bin/$target" "${limits[@]}" "${dictionary[@]}" -max_total_time="$seconds" -print_final_stats=1 -reload=0 \
    -artifact_prefix="$out/findings/$target-" "$work"
"$bin/$target" "${limits[@]}" -merge=1 "$work.merged" "$work"
mkdir -p "$(dirname "$kept")"
"$bin/corpus" pack "$work.merged" "$kept"
echo "$target: $(wc -l <"$kept") inputs kept, $(wc -c <"$kept") bytes"
