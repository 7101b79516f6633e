"""What containers run around a step: installing its packages, and trying again where Argo cannot tell when."""

from steps.common.console import TERMINATION_LOG
from steps.common.errors import EXIT_TEMPORARY, EXIT_USER_ERROR

_FAIL = f"""\
fail() {{
  echo "error: $1" >&2
  if [ -w {TERMINATION_LOG} ]; then echo "$1" > {TERMINATION_LOG}; fi
  exit $2
}}
"""
"""Says why as the steps do: in the log, and where Argo's page finds it."""


def _pip(target: str) -> str:
    """Install what "$0" lists: those versions, those files, no building, into a folder that any user may write."""
    return (
        "python -m pip install --quiet --disable-pip-version-check --no-cache-dir --no-deps --require-hashes "
        f'--only-binary :all: --target {target} --requirement "$0"'
    )


def install_and_run(target: str) -> str:
    """Return a script that installs what the file "$0" lists, then becomes "$@"."""
    return f"""\
{_FAIL}if [ ! -r "$0" ]; then fail "the source has no $0: run 'make lock' there" {EXIT_USER_ERROR}; fi
if ! {_pip(target)}; then
  fail "the packages cannot be installed, the log says why; this may pass" {EXIT_TEMPORARY}
fi
exec "$@"
"""


def install_and_run_beside(target: str) -> str:
    """Return a script like `install_and_run` for a side-car: one that fails would fail the step it watches."""
    return f"""\
{_pip(target)} && exec "$@"
exit 0
"""


ONEPANEL_RUN = f"""\
{_FAIL}trap 'stopped=yes; kill -TERM $child 2>/dev/null' TERM
if [ -e "$0" ]; then fail "an attempt before this one was refused: its log says why" {EXIT_USER_ERROR}; fi
for pause in 10 30 90 270 600 end; do
  "$@" &
  child=$!
  wait $child
  status=$?
  while kill -0 $child 2>/dev/null; do wait $child; status=$?; done
  if [ $status -ne {EXIT_TEMPORARY} ] || [ $pause = end ] || [ "$stopped" ]; then break; fi
  echo "this may pass: trying again in $pause s"
  sleep $pause &
  child=$!
  wait $child
  if [ "$stopped" ]; then exit 143; fi
done
if [ $status -eq {EXIT_USER_ERROR} ] && [ "$0" ]; then : > "$0"; fi
exit $status
"""
"""Runs "$@" for Argo v2.12, whose retries know no exit status: what may pass is tried again in the pod; what was
refused leaves the file "$0", if it is given, so that no other attempt repeats the work."""
