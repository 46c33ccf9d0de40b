"""The codebook of a VQ-VAE, learnt by moving averages (van den Oord et al., arXiv 1711.00937, appendix A.1).

Shapes: `T` vectors of a batch, `D` width of a code.
"""

import torch
from torch import distributed, nn
from transformers import initialization as init

from .configuration_mask_vqvae import MaskVQVAEConfig


class MaskCodebook(nn.Module):
    """Vectors of codes, with moving averages of their use.

    A code's vector is the moving average of the encoder outputs assigned to it. Its use is relative to the average use
    (1: as often as the average code), so that it depends neither on the batch size nor on the number of processes.
    Rarely used codes are revived; in a new codebook all codes are dead, so the first training batch fills it. Names of
    buffers are those of the released weights.
    """

    _embedding: torch.Tensor
    _ema_cluster_size: torch.Tensor
    _ema_w: torch.Tensor

    def __init__(self, config: MaskVQVAEConfig):
        super().__init__()
        self.decay, self.threshold = config.codebook_decay, config.dead_code_threshold
        shape = (config.codebook_size, config.codebook_dim)
        self.register_buffer("_embedding", torch.randn(shape))
        self.register_buffer("_ema_cluster_size", torch.zeros(shape[0]))
        self.register_buffer("_ema_w", torch.zeros(shape))

    @torch.no_grad()
    def init_weights(self) -> None:
        """Initialise as unused; a loaded codebook without statistics counts as evenly used, so that it is kept."""
        loaded = getattr(self._embedding, "_is_hf_initialized", False)
        init.normal_(self._embedding)
        init.constant_(self._ema_cluster_size, float(loaded))
        init.copy_(self._ema_w, self._embedding * float(loaded))

    def nearest(self, vectors: torch.Tensor) -> torch.Tensor:
        """The nearest code, int[T], to each of float[T, D]; between equal distances rounding decides."""
        codebook = self._embedding.to(torch.promote_types(self._embedding.dtype, torch.float32))
        # distances may differ in their fifth digit only, which autocast to bfloat16 would round away
        with torch.autocast(vectors.device.type, enabled=False):
            distances = codebook.square().sum(1) - 2 * vectors.to(codebook.dtype) @ codebook.T
        return distances.argmin(1)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """The vectors, float[..., D], of codes, int[...]."""
        return nn.functional.embedding(codes, self._embedding)

    @torch.no_grad()
    def revive(self, vectors: torch.Tensor) -> None:
        """Move dead codes to random vectors of float[T, D]; on every process to the same ones."""
        dead = self._ema_cluster_size < self.threshold
        if not dead.any():
            return
        chosen = torch.randint(len(vectors), (len(dead),), device=vectors.device)
        candidates = vectors[chosen].to(self._embedding.dtype)
        if several_processes():
            distributed.broadcast(candidates, 0)
        # a small weight, so that a revived code moves fast, or dies again if it is not needed
        weight = max(0.1, 2 * self.threshold)
        self._embedding[dead] = candidates[dead]
        self._ema_cluster_size[dead] = weight
        self._ema_w[dead] = weight * candidates[dead]

    @torch.no_grad()
    def update(self, vectors: torch.Tensor, codes: torch.Tensor) -> None:
        """Update the averages with vectors, float[T, D], and their codes, int[T], of all processes.

        Raises:
            ValueError: the codebook is in half precision, where changes of a hundredth are lost.
        """
        if self._embedding.dtype in (torch.bfloat16, torch.float16):
            raise ValueError(
                f"a codebook in {self._embedding.dtype} learns nothing: load the mask VQ-VAE with"
                " from_pretrained(folder, dtype=...), which keeps it in float32, and do not cast it afterwards"
            )
        size, dim = self._embedding.shape
        # the last column counts the vectors
        sums = self._embedding.new_zeros(size, dim + 1)
        rows = torch.cat([vectors.to(sums.dtype), sums.new_ones(len(vectors), 1)], 1)
        sums.index_add_(0, codes, rows)
        if several_processes():
            distributed.all_reduce(sums)
        sums *= size / sums[:, -1].sum()
        self._ema_cluster_size.lerp_(sums[:, -1], 1 - self.decay)
        self._ema_w.lerp_(sums[:, :-1], 1 - self.decay)
        self._embedding.copy_(self._ema_w / self._ema_cluster_size.clamp(min=1e-12)[:, None])


def several_processes() -> bool:
    """Whether other processes train the same model."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
