#!/bin/bash
# A training on a Slurm allocation: sbatch dags/cluster/slurm-train.sh base --data /shared/run --out /shared/model
# One torchrun a node starts a rank a GPU. Every node needs the same environment (VENV) and must reach
# --data and --out. Three minutes before the time is up, or when the job is preempted, torchrun hands
# SIGTERM to its ranks: the step ends, and a checkpoint is written. Sent again, the same command goes
# on with the same curve, also on another number of nodes.
#SBATCH --job-name=gristmill-train
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@180
#SBATCH --open-mode=append
set -euo pipefail
: "${VENV:=$PWD/.venv}" "${GPUS:=${SLURM_GPUS_ON_NODE:-8}}"
export PATH="$VENV/bin:$PATH"
# Seconds that torchrun leaves its ranks for the step and the checkpoint; 30 where it knows no better.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=150
HEAD=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

exec srun torchrun --nnodes "$SLURM_JOB_NUM_NODES" --nproc-per-node "$GPUS" \
  --rdzv-id "$SLURM_JOB_ID" --rdzv-backend c10d --rdzv-endpoint "$HEAD:29500" \
  -m gristmill.model "$@"
