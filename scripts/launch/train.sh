#!/usr/bin/env bash
# Run any stage on one GPU, on all GPUs of a machine, or as one of several nodes (called by scripts/slurm/train.sbatch).
#
#   scripts/launch/train.sh pretrain pali3/stage1-224 --output_dir outputs/stage1
#   GPUS=1 scripts/launch/train.sh transfer transfers/caption --model google/paligemma-3b-pt-224
#   DRY_RUN=1 ENGINE=zero3 scripts/launch/train.sh pretrain pali3/stage2-812
#
# GPUS       GPUs of this machine, 8
# ENGINE     a file of recipes/configs/accelerate: ddp, fsdp2 (the default), zero2, zero3, cpu
# NODES      machines, 1; if more, also NODE_RANK (0-based) and MAIN_IP, and MAIN_PORT (29500)
# RESTARTS   times that all processes restart after one fails, 0; they resume from the last checkpoint
# PYTHON     the interpreter, python
# DRY_RUN    1 prints the command without running it
set -euo pipefail
recipe=${1:?give a recipe: contrastive, denoise, pretrain, transfer, ...}
config=${2:?give the configuration of the recipe}
shift 2
processes=$((${GPUS:-8} * ${NODES:-1}))
run=(-m "openpali.recipes.$recipe" --config "$config" "$@")

if [ "$processes" = 1 ]; then
    command=("${PYTHON:-python}" "${run[@]}")
else
    engines=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../recipes/configs/accelerate" && pwd)
    command=("${PYTHON:-python}" -m accelerate.commands.launch --config_file "$engines/${ENGINE:-fsdp2}.yaml"
        --num_processes "$processes" --num_machines "${NODES:-1}" --machine_rank "${NODE_RANK:-0}"
        --main_process_port "${MAIN_PORT:-29500}" --max_restarts "${RESTARTS:-0}")
    if [ "${NODES:-1}" != 1 ]; then
        command+=(--main_process_ip "${MAIN_IP:?give the address of node 0}")
    fi
    command+=("${run[@]}")
fi

# seconds that torch's launcher gives its processes after SIGTERM, for the step and its checkpoint; 30 are few for a
# checkpoint of 3B parameters, and scripts/slurm/train.sbatch gets the signal 300 before the end
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-270}
# the run compares it with its number of processes
export OPENPALI_PROCESSES=$processes
if [ "${DRY_RUN:-0}" = 1 ]; then
    printf '%q ' "${command[@]}"
    echo
else
    exec "${command[@]}"
fi
