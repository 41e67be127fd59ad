#!/bin/sh
# Before Airflow's services start, at every `up`: the database's tables as this version wants them, and the pools.
set -eu
airflow db migrate
airflow pools import "$AIRFLOW__CORE__DAGS_FOLDER/pools.json"
