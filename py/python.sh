#!/bin/sh
# What pythonia starts as "python": our interpreter, its output in the log, deaf to the terminal's signals from the first
# instruction on (ignored signals survive exec; a Ctrl-C in the middle of `import torch` would kill Python otherwise).
trap '' INT TERM HUP
here=$(dirname "$0")
# Threads that wait must not spin: they would hold the cores that the loader workers decode on. Changes no number.
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-passive}"
export PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 PYTHONUTF8=1 PYTHONFAULTHANDLER=1
exec "${COLDFRAME_PYTHON:-$here/../.venv/bin/python}" "$@" </dev/null >>"$COLDFRAME_LOG" 2>&1
