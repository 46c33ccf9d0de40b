#!/usr/bin/env bash
# Any stage on one GPU, on all GPUs of a machine, or as one node of several (scripts/slurm/train.sbatch calls it there).
#
#   scripts/launch/train.sh pretrain recipes/configs/pali3/stage1-224.yaml --output_dir outputs/stage1
#   GPUS=1 scripts/launch/train.sh transfer transfers/caption --model google/paligemma-3b-pt-224
#   DRY_RUN=1 ENGINE=zero3 scripts/launch/train.sh pretrain pali3/stage2-812
#
# GPUS       on this machine, 8
# ENGINE     a file of recipes/configs/accelerate: ddp, fsdp2 (the default), zero2, zero3, cpu
# NODES      machines, 1; then NODE_RANK (from 0) and MAIN_IP, and MAIN_PORT (29500)
# RESTARTS   how often all processes start again where one fails, 0; they go on from the last checkpoint
# PYTHON     python
# DRY_RUN    1 to print the command and not to run it
set -euo pipefail
recipe=${1:?a recipe: contrastive, denoise, pretrain, transfer, ...}
config=${2:?its configuration}
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
        command+=(--main_process_ip "${MAIN_IP:?the address of node 0}")
    fi
    command+=("${run[@]}")
fi

# the run compares it with the processes that it finds
export OPENPALI_PROCESSES=$processes
if [ "${DRY_RUN:-0}" = 1 ]; then
    printf '%q ' "${command[@]}"
    echo
else
    exec "${command[@]}"
fi
