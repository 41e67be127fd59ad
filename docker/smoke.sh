#!/usr/bin/env bash
# Builds everything, starts it in profile cpu with fresh secrets, runs one night through Airflow, looks at what is served, and takes it
# all away again: `make compose-smoke`. Needs a container engine, Compose, about 15 GB of disk, 12 GB of memory and the package index;
# the first build takes long. Other deployments on the machine are left alone: the project is called kar-smoke.
#   KEEP=1        leave it running and the volumes there
#   API_PORT=…    the port that Airflow's page gets (18080)
set -euo pipefail
cd "$(dirname "$0")/.."

FIRST=2026-11-18
NIGHT=2026-11-19
HEALTHY_S=1800
NIGHT_S=1800

say() { printf '\n== %s (at %s s)\n' "$*" "$SECONDS"; }
die() {
  printf 'compose-smoke: %s\n' "$*" >&2
  exit 1
}

command -v docker > /dev/null || die "there is no docker command here; install a container engine with Compose, or run this on a machine that has one"
docker info > /dev/null 2>&1 || die "no container engine answers (docker info fails); start one, or run this on a machine that has one"
if docker compose version > /dev/null 2>&1; then
  COMPOSE=(docker compose)
elif command -v docker-compose > /dev/null; then
  COMPOSE=(docker-compose)
else
  die "there is an engine but no Compose; install the compose plugin"
fi
command -v python3 > /dev/null || die "python3 is needed for the secrets and the small tables"

WORK=$(mktemp -d)
python3 docker/make_env.py "$WORK/env" > /dev/null
python3 docker/smoke_world.py "$WORK/tables"
mkdir "$WORK/settings"
cp docker/smoke.toml "$WORK/settings/"
chmod -R a+rX "$WORK/tables" "$WORK/settings"
chmod a+x "$WORK"
# what the shell exports goes before what the file says; no night may start by itself, so the schedule names a day far off
export COMPOSE_PROFILES=cpu SCENARIO=smoke SETTINGS="$WORK/settings" TABLES="$WORK/tables" KAR_PUBLISHED="" KAR_SET="" \
  LLM_MODEL=smollm2-135m-instruct LLM_URL=http://llm:8000/v1 KAR_LLM_SERVER=standing KAR_SCHEDULE="0 0 29 2 *" KAR_PUBLISH_BY="" \
  API_PORT="${API_PORT:-18080}" KAR_ENVIRONMENT=production SCHEDULER_MEMORY=6g SCHEDULER_CPUS=2

compose() { "${COMPOSE[@]}" --project-name kar-smoke --env-file "$WORK/env" --file docker-compose.yml "$@"; }

finish() {
  local code=$?
  if [ "$code" -ne 0 ]; then
    compose ps || true
    compose logs --tail 60 || true
  fi
  if [ -n "${KEEP:-}" ]; then
    say "left as it is; to take it away: ${COMPOSE[*]} --project-name kar-smoke --env-file $WORK/env --file docker-compose.yml --profile cpu --profile tools down --volumes"
  else
    compose --profile cpu --profile tools down --volumes --remove-orphans --timeout 30 > /dev/null 2>&1 || true
    rm -rf "$WORK"
  fi
  exit "$code"
}
trap finish EXIT

# The word for a service: healthy, starting, unhealthy, or what its container does where it has no health check.
health() {
  local id
  id=$(compose ps --quiet "$1" | head -n 1)
  [ -n "$id" ] || { echo absent && return; }
  docker inspect --format '{{if .State.Health}}{{.State.Health.Status}}{{else}}{{.State.Status}}{{end}}' "$id"
}

await_healthy() {
  local service
  for service in "$@"; do
    until [ "$(health "$service")" = healthy ]; do
      [ "$SECONDS" -lt "$HEALTHY_UNTIL" ] || die "$service is $(health "$service") after $HEALTHY_S s"
      sleep 5
    done
    say "$service is healthy"
  done
}

run_state() {
  compose exec -T scheduler airflow dags list-runs kar_nightly --output json \
    | python3 -c 'import json, sys; print(next((r["state"] for r in json.load(sys.stdin) if r["run_id"] == "smoke"), "absent"))'
}

say "building kar, then what stands on it"
compose --profile tools build kar
compose build

say "starting"
compose up --detach
HEALTHY_UNTIL=$((SECONDS + HEALTHY_S))
await_healthy postgres api-server scheduler dag-processor triggerer vllm-cpu

say "the first night and its training by hand: nothing can be published before a training"
compose --profile tools run --rm -T kar run all --date "$FIRST"

say "the second night by Airflow"
compose exec -T scheduler airflow dags unpause kar_nightly
compose exec -T scheduler airflow dags trigger kar_nightly --run-id smoke --conf "{\"date\": \"$NIGHT\"}"
NIGHT_UNTIL=$((SECONDS + NIGHT_S))
until state=$(run_state) && [ "$state" = success ]; do
  if [ "$state" = failed ] || [ "$SECONDS" -ge "$NIGHT_UNTIL" ]; then
    compose exec -T scheduler airflow tasks states-for-dag-run kar_nightly smoke || true
    die "the night is $state"
  fi
  sleep 5
done

say "what is served"
served=$(compose --profile tools run --rm -T --entrypoint python kar -c \
  'import kar.release; print(kar.release.open("/var/kar/smoke/published", verify=True).id)' | tr -d '\r' | tail -n 1)
case "$served" in
  "$NIGHT"-*) say "CURRENT names $served, and its digests hold" ;;
  *) die "CURRENT names ${served:-nothing}, not a release of $NIGHT" ;;
esac
