"""The codebook of a VQ-VAE, learnt by moving averages (van den Oord et al., arXiv 1711.00937, appendix A.1)."""

import torch
from torch import distributed, nn
from transformers import initialization as init

from .configuration_mask_vqvae import MaskVQVAEConfig


class MaskCodebook(nn.Module):
    """Vectors, and how much and for what each was used lately.

    A code's vector is the moving average of the encoder outputs that chose it. Use is counted in multiples of the
    average use, so that neither the batch size nor the number of processes changes what a number means: 1 is a
    code that is used as often as the average one. Codes that are hardly used any more are revived; a new codebook is
    all dead, so the first training batch fills it. Names are those of the released weights and of the common code.
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
        """A new codebook is unused; one that comes without statistics counts as used evenly, so that it stays."""
        loaded = getattr(self._embedding, "_is_hf_initialized", False)
        init.normal_(self._embedding)
        init.constant_(self._ema_cluster_size, float(loaded))
        init.copy_(self._ema_w, self._embedding * float(loaded))

    def nearest(self, vectors: torch.Tensor) -> torch.Tensor:
        """int[N], the code nearest to each of float[N, D]; of equally near ones whichever rounding leaves nearest."""
        codebook = self._embedding.to(torch.promote_types(self._embedding.dtype, torch.float32))
        # distances that differ in their fifth digit decide: autocast would round them to eight bits
        with torch.autocast(vectors.device.type, enabled=False):
            distances = codebook.square().sum(1) - 2 * vectors.to(codebook.dtype) @ codebook.T
        return distances.argmin(1)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """float[..., D], the vectors of int[...]."""
        return nn.functional.embedding(codes, self._embedding)

    @torch.no_grad()
    def revive(self, vectors: torch.Tensor) -> None:
        """Move codes that are dead to vectors, drawn at random, of float[N, D]; on every process to the same."""
        dead = self._ema_cluster_size < self.threshold
        if not dead.any():
            return
        chosen = torch.randint(len(vectors), (len(dead),), device=vectors.device)
        candidates = vectors[chosen].to(self._embedding.dtype)
        if several_processes():
            distributed.broadcast(candidates, 0)
        # little weight: where such a code belongs shows soon, and so does that it is not needed
        weight = max(0.1, 2 * self.threshold)
        self._embedding[dead] = candidates[dead]
        self._ema_cluster_size[dead] = weight
        self._ema_w[dead] = weight * candidates[dead]

    @torch.no_grad()
    def update(self, vectors: torch.Tensor, codes: torch.Tensor) -> None:
        """Move the averages towards float[N, D] and the codes int[N] that they chose, on all processes together.

        Raises:
            ValueError: the codebook itself is in half precision, where a hundredth of an average is lost.
        """
        if self._embedding.dtype in (torch.bfloat16, torch.float16):
            raise ValueError(
                f"a codebook in {self._embedding.dtype} learns nothing: load the codec with from_pretrained(folder,"
                " dtype=...), which keeps it in float32, and do not cast it afterwards"
            )
        size, dim = self._embedding.shape
        # the last column counts
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
