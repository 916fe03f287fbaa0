#!/usr/bin/env bash
# benches/gpu/check.sh [FEATURE] [DEVICE]
#
# Through Vulkan, the GPU's kernels against the plain-tensor versions, values and gradients; a hundred
# steps of training against PyTorch's, and two hundred against the CPU's; five hundred in the same
# memory. On a GPU, or where there is none on Mesa's software driver (Debian: mesa-vulkan-drivers),
# which takes a quarter of an hour after the build.
#
# FEATURE is wgpu (WGSL, any driver) or vulkan (SPIR-V, 16 bits and matrix units where the driver
# has them; of Mesa's software driver that takes version 26). DEVICE is wgpu unless given.
set -euo pipefail
cd "$(dirname "$0")/../.."
export SCALE_CKPT_GPU=${2:-wgpu} XDG_RUNTIME_DIR=${XDG_RUNTIME_DIR:-/tmp}
# Every shape is tuned when it is met first; on a processor that is most of the time.
export CUBECL_AUTOTUNE_LEVEL=${CUBECL_AUTOTUNE_LEVEL:-minimal}
cargo test --release --features "${1:-wgpu}" --test gpu --test train_parity --test long_runs \
    -- --test-threads=1 --nocapture
