#!/bin/bash
# A run on a Slurm allocation: sbatch dags/cluster/slurm.sh image-text --source urls.parquet --out /shared/run
# Every node needs the same environment (VENV) and must reach --out. Sent again after a time limit or
# a lost node, the same command goes on where it stopped.
#SBATCH --job-name=gristmill
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=B:INT@120
set -euo pipefail
: "${VENV:=$PWD/.venv}"
PORT=6379
HEAD=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
ADDRESS=$(srun --nodes=1 --ntasks=1 --nodelist="$HEAD" hostname --ip-address | awk '{print $1}')

srun --nodes=1 --ntasks=1 --nodelist="$HEAD" \
  "$VENV/bin/ray" start --head --node-ip-address="$ADDRESS" --port=$PORT --block &
sleep 15
if (( SLURM_JOB_NUM_NODES > 1 )); then
  srun --nodes=$((SLURM_JOB_NUM_NODES - 1)) --ntasks-per-node=1 --exclude="$HEAD" \
    "$VENV/bin/ray" start --address="$ADDRESS:$PORT" --block &
  sleep 15
fi
exec "$VENV/bin/gristmill" run "$@" --address "$ADDRESS:$PORT" --plain
