#!/bin/sh
# Builds the fuzz target of netctl-wg's data path in C with ASan and UBSan and runs it: `native.sh SECONDS` with clang's
# libFuzzer, `native.sh rounds NUMBER` with inputs from a fixed seed and any compiler. Exits with 77 where the compiler
# has no sanitizers.
set -eu
cd "$(dirname "$0")"
core=../../netctl/wg/native
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
build() { "$@" -std=c11 -g -O1 -Wall -Wextra -fno-sanitize-recover=undefined -I "$core" fuzz_native.c \
  "$core/packet.c" "$core/session.c" "$core/turn.c" -lcrypto -o "$out/fuzz"; }
if [ "$1" = rounds ]; then
  echo 'int main(void) { return 0; }' > "$out/try.c"
  "${CC:-cc}" -fsanitize=address,undefined "$out/try.c" -o "$out/try" 2> /dev/null || exit 77
  build "${CC:-cc}" -DSTANDALONE -fsanitize=address,undefined
  "$out/fuzz" "$2"
else
  build clang -fsanitize=fuzzer,address,undefined
  (cd "$out" && ./fuzz -max_len=4096 -max_total_time="$1" -print_final_stats=1)
fi
