#!/bin/sh
# Builds the fuzz target of netctl-wg's data path in C with ASan and UBSan and runs it: `native.sh SECONDS` with clang's
# libFuzzer, `native.sh rounds NUMBER` with inputs from a fixed seed and any compiler; `native.sh race NUMBER` the same
# with ThreadSanitizer and NETCTL_WG_THREADS (3) threads, `native.sh valgrind NUMBER` under valgrind instead of a
# sanitizer. Exits with 77 where the compiler has no sanitizers, there is no valgrind, or addresses stay random.
set -eu
cd "$(dirname "$0")"
core=../../netctl/wg/native
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
build() { "$@" -std=c11 -g -O1 -Wall -Wextra -I "$core" fuzz_native.c \
  "$core/packet.c" "$core/session.c" "$core/turn.c" "$core/workers.c" -lcrypto -pthread -o "$out/fuzz"; }
try() {
  echo 'int main(void) { return 0; }' > "$out/try.c"
  "${CC:-cc}" "$1" "$out/try.c" -o "$out/try" 2> /dev/null || exit 77
}
case $1 in
  rounds)
    try -fsanitize=address,undefined
    build "${CC:-cc}" -DSTANDALONE -fsanitize=address,undefined -fno-sanitize-recover=undefined
    "$out/fuzz" "$2"
    ;;
  race)
    # ThreadSanitizer has fixed places in memory: the kernel must not put things there at random.
    try -fsanitize=thread
    setarch --addr-no-randomize true 2> /dev/null || exit 77 # some containers refuse it
    build "${CC:-cc}" -DSTANDALONE -fsanitize=thread
    NETCTL_WG_THREADS=${NETCTL_WG_THREADS:-3} TSAN_OPTIONS=halt_on_error=1 \
      setarch --addr-no-randomize "$out/fuzz" "$2"
    ;;
  valgrind)
    command -v valgrind > /dev/null || exit 77
    build "${CC:-cc}" -DSTANDALONE
    NETCTL_WG_THREADS=${NETCTL_WG_THREADS:-3} valgrind -q --error-exitcode=9 --leak-check=full --fair-sched=yes "$out/fuzz" "$2"
    ;;
  *)
    build clang -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined
    (cd "$out" && ./fuzz -max_len=4096 -max_total_time="$1" -print_final_stats=1)
    ;;
esac
