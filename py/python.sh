#!/bin/sh
# What pythonia starts as "python": our interpreter, its output in the log, deaf to the terminal's and schedulers' signals from the first
# instruction on (ignored signals survive exec; a Ctrl-C in the middle of `import torch` would kill Python otherwise).
# Without COLDFRAME_LOG (bench programs) it is the same Python in the open: its output seen, Ctrl-C heard.
if [ -n "$COLDFRAME_LOG" ]; then trap '' INT TERM HUP USR1; exec >>"$COLDFRAME_LOG" 2>&1; fi
here=$(dirname "$0")
# What the user's shell says to other Pythons is not meant for this one: PYTHONHOME keeps it from starting, modules on
# PYTHONPATH or in the user's own folder take the place of its own, PYTHONOPTIMIZE drops its checks, PYTHONWARNINGS may end it.
for name in $(env | sed -n 's/^\(PYTHON[A-Z0-9_]*\)=.*/\1/p'); do
  case $name in PYTHONDONTWRITEBYTECODE | PYTHONPYCACHEPREFIX) ;; *) unset "$name" ;; esac
done
# Threads that wait must not spin for long: they would hold the cores that the loader workers decode on. A tenth of a
# millisecond or two bridges the gap to the next operation; falling asleep there made a decoder step 1.5 times as long.
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-passive}" GOMP_SPINCOUNT="${GOMP_SPINCOUNT:-10000}"
# Memory that a step frees is kept for the next one: handing it back and faulting it in again takes a tenth of a step.
export MALLOC_MMAP_MAX_="${MALLOC_MMAP_MAX_:-0}" MALLOC_TRIM_THRESHOLD_="${MALLOC_TRIM_THRESHOLD_:-17179869184}"
export PYTHONPATH="$here${COLDFRAME_PYTHONPATH:+:$COLDFRAME_PYTHONPATH}" PYTHONNOUSERSITE=1
export PYTHONUNBUFFERED=1 PYTHONUTF8=1 PYTHONFAULTHANDLER=1
exec "${COLDFRAME_PYTHON:-$here/../.venv/bin/python}" "$@" </dev/null
