#!/bin/sh
# kar, with the settings that KAR_SET gives to the nights (one section.key=value a line), where a command takes --set.
set -eu
if [ -n "${KAR_SET:-}" ] && python -m kar "$@" --help 2> /dev/null | grep -q -e '--set'; then
  while IFS= read -r line; do
    [ -z "$line" ] || set -- "$@" --set "$line"
  done << END
$KAR_SET
END
fi
exec python -m kar "$@"
