#!/bin/sh
# Cargo's RUSTC_WORKSPACE_WRAPPER for scripts/fuzz: compiles our library so that libFuzzer sees which branches an input
# takes. The flags are those of `cargo fuzz` without a sanitizer; each of them is known to the stable compiler.
# The build script must go without: it is a program of its own, without libFuzzer.
case " $* " in
*" --crate-name speckled "*" --crate-type lib "*)
    exec "$@" -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
        -Cllvm-args=-sanitizer-coverage-trace-compares -Cllvm-args=-simplifycfg-branch-fold-threshold=0
    ;;
*) exec "$@" ;;
esac
