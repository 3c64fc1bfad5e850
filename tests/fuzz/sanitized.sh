#!/bin/sh
# Real packets through netctl-wg and the relay with their C code under ASan and UBSan: `sanitized.sh [TEST FILE]...`, as
# root; with SANITIZER=thread under ThreadSanitizer, by three threads, netctl-wg alone. A copy of the package with
# instrumented modules, and a netctl-wg that runs from it: the tests start that one. Any report of a sanitizer is printed
# here. Left out are tests that read what netctl-wg says: the sanitizer has a word there too. The relay's tests run it in
# their own process; the others have the checkout's package in theirs.
set -eu
cd "$(dirname "$0")/../.."
checkout=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -r netctl mediator hatch_build.py "$work"
sanitizer=${SANITIZER:-address,undefined}
case $sanitizer in
  thread) library=libtsan.so ;;
  *) library=libasan.so ;;
esac
library=$("${CC:-cc}" -print-file-name=$library)
(cd "$work" && CFLAGS="-g -O1 -fsanitize=$sanitizer -fno-sanitize-recover=undefined -U_FORTIFY_SOURCE" \
  "$checkout/.venv/bin/python" -c "
import sys; from pathlib import Path; sys.path.insert(0, '.'); import hatch_build
sys.exit(next(filter(None, [hatch_build.build(Path('.'), module) for module in hatch_build.MODULES]), 0))")
"$checkout/.venv/bin/python" -m venv --without-pip "$work/venv"
site() { "$1/bin/python" -c 'import site; print(site.getsitepackages()[0])'; }
printf '%s\n%s\n' "$work" "$(site "$checkout/.venv")" > "$(site "$work/venv")/both.pth"
cat > "$work/venv/bin/netctl-wg" << END
#!/bin/sh
unset PYTHONPATH
export LD_PRELOAD=$library
export NETCTL_WG_THREADS=\${NETCTL_WG_THREADS:-$([ "$sanitizer" = thread ] && echo 3 || echo 1)}
export TSAN_OPTIONS=exitcode=0:symbolize=0:log_path=$work/report
export ASAN_OPTIONS=detect_leaks=0:symbolize=0:verbosity=0:log_path=$work/report UBSAN_OPTIONS=symbolize=0:log_path=$work/report
exec setarch --addr-no-randomize $work/venv/bin/python -P -m netctl.wg.main "\$@"
END
chmod +x "$work/venv/bin/netctl-wg"
"$work/venv/bin/netctl-wg" --version
if [ $# -eq 0 ] && [ "$sanitizer" != thread ]; then
  LD_PRELOAD=$library ASAN_OPTIONS=detect_leaks=0 "$work/venv/bin/python" -P -m pytest -q \
    -p no:cacheprovider -n 0 tests/netns/test_relay_native.py tests/netns/test_relay_real.py
fi
[ $# -gt 0 ] || set -- tests/netns/test_wg_real.py tests/netns/test_wg_silent.py tests/netns/test_hostile_datagrams.py \
  tests/netns/test_wg_threads.py
status=0
PYTHONPATH=$checkout "$work/venv/bin/python" -P -m pytest -q -n 0 -p no:cacheprovider \
  -k "not python and not foreground and not is_said" "$@" || status=$?
if cat "$work"/report* 2> /dev/null; then exit 1; fi
exit $status
