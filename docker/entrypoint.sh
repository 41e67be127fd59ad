#!/bin/sh
# Every Airflow container begins here: refuse bad secrets, then become the command.
set -eu
here=$(dirname "$0")
python "$here/refuse_defaults.py"

# Airflow's simple login reads its passwords from a file. It is written anew at each start, into memory (AIRFLOW_HOME is a
# tmpfs), so that a changed ADMIN_PASSWORD counts and no volume keeps an old one.
if [ "${1:-} ${2:-}" = "airflow api-server" ]; then
  umask 077
  python -c 'import json, os; print(json.dumps({"admin": os.environ["ADMIN_PASSWORD"]}))' \
    > "$AIRFLOW_HOME/simple_auth_manager_passwords.json.generated"
  unset ADMIN_PASSWORD
fi
exec "$@"
