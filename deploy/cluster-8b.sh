#!/bin/bash
#SBATCH --job-name=cluster-8b
#SBATCH --nodes=16
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@600
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log

# Where the machines meet, and a name for this attempt: a job that was queued again has its old number.
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export HERDBOOK_RENDEZVOUS="$first:29400"
export HERDBOOK_RUN="$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}"

# 600 s before the time limit, or when others need the machines, training is told to save.
asked=
trap 'asked=1; kill -TERM "$step"' TERM
srun --kill-on-bad-exit=0 herdbook run recipes/cluster-8b.yaml --book /book &
step=$!
wait "$step"
code=$?
if [ -n "$asked" ]; then
    wait "$step"  # the first wait was ended by the signal
    code=$?
    [ "$code" -eq 0 ] || scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
