#!/bin/sh
# Instruments rbuild's own crates and nothing else: what is measured is our code, and the others stay fast.
case "${CARGO_PKG_NAME-}/${CARGO_CRATE_NAME-}" in
*/build_script_*) ;;
rbuild-*)
    exec "$@" -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
        -Cllvm-args=-sanitizer-coverage-pc-table \
        -Cllvm-args=-sanitizer-coverage-trace-compares
    ;;
esac
exec "$@"
