#!/bin/bash
# A run on a Slurm allocation: sbatch dags/cluster/slurm.sh image-text --source urls.parquet --out /shared/run
# Every node needs the same environment (VENV), the home folder of the user (for the token of the
# cluster) and must reach --out. Sent again after a time limit or a lost node, the same command goes
# on where it stopped.
#SBATCH --job-name=gristmill
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=B:INT@120
set -euo pipefail
: "${VENV:=$PWD/.venv}"
export PATH="$VENV/bin:$PATH"
PORT=6379
HEAD=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
ADDRESS=$(srun --nodes=1 --ntasks=1 --nodelist="$HEAD" hostname --ip-address | awk '{print $1}')

# Before the head starts: without a token it is open to whoever reaches it.
umask 077
[ -s ~/.ray/auth_token ] || ray get-auth-token --generate > /dev/null
export RAY_AUTH_MODE=token

srun --nodes=1 --ntasks=1 --nodelist="$HEAD" \
  ray start --head --node-ip-address="$ADDRESS" --port=$PORT --block &
HEAD_STEP=$!
until ray status --address="$ADDRESS:$PORT" > /dev/null 2>&1; do
  kill -0 $HEAD_STEP  # a head that is gone ends the job
  sleep 2
done
if (( SLURM_JOB_NUM_NODES > 1 )); then
  srun --nodes=$((SLURM_JOB_NUM_NODES - 1)) --ntasks-per-node=1 --exclude="$HEAD" \
    ray start --address="$ADDRESS:$PORT" --block &
fi
exec gristmill run "$@" --address "$ADDRESS:$PORT" --plain
