import os
import subprocess
import sys
from socket import socket

import pytest
import torch
from tiny_mask_vqvae import blobs, tiny


def test_codes_move_to_the_average_of_what_chose_them():
    model = tiny(codebook_decay=0.9, dead_code_threshold=0.0)
    book = model._vq_vae
    size, w = torch.tensor([1.0, 2, 1, 1, 0.5, 1]), torch.randn(6, 5)
    book._ema_cluster_size.copy_(size)
    book._ema_w.copy_(w)
    vectors, codes = torch.randn(4, 5), torch.tensor([0, 0, 0, 3])
    book.update(vectors, codes)
    # 4 vectors and 6 codes: a count of 1 is 6/4 of the average use
    size = 0.9 * size + 0.1 * torch.tensor([3.0, 0, 0, 1, 0, 0]) * 6 / 4
    w = 0.9 * w
    w[0] += 0.1 * vectors[:3].sum(0) * 6 / 4
    w[3] += 0.1 * vectors[3] * 6 / 4
    torch.testing.assert_close(book._ema_cluster_size, size)
    torch.testing.assert_close(book._embedding, w / size[:, None])


def test_a_new_codebook_is_filled_by_the_first_batch_and_evaluation_changes_nothing():
    model = tiny().eval()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model(blobs(8))
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    model.train()
    masks = blobs(8)
    vectors = model.encoder(2.0 * masks[:, None] - 1).permute(0, 2, 3, 1).flatten(0, 2)
    model._vq_vae.revive(vectors.detach())
    assert all(any(torch.equal(code, vector) for vector in vectors) for code in model._vq_vae._embedding)


def test_only_dead_codes_are_revived():
    book = tiny(dead_code_threshold=0.02)._vq_vae
    book._ema_cluster_size.copy_(torch.tensor([1.0, 0.019, 0.021, 3, 0, 1]))
    before = book._embedding.clone()
    vectors = torch.randn(3, 5)
    book.revive(vectors)
    moved = [i for i in range(6) if not torch.equal(book._embedding[i], before[i])]
    assert moved == [1, 4]
    assert all(any(torch.equal(book._embedding[i], vector) for vector in vectors) for i in moved)
    assert (book._ema_cluster_size[moved] > 0.02).all()
    torch.testing.assert_close(book._ema_w[moved] / book._ema_cluster_size[moved, None], book._embedding[moved])


@pytest.mark.parametrize("threshold", [0.02, 0.0])
def test_revival_is_what_keeps_codes_in_use(threshold):
    """The control: without it a codebook whose codes lie elsewhere stays nearly unused."""
    model = tiny(dead_code_threshold=threshold, codebook_size=16, codebook_decay=0.9).train()
    model._vq_vae._embedding += 20
    model._vq_vae._ema_cluster_size += 1
    model._vq_vae._ema_w.copy_(model._vq_vae._embedding)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(150):
        loss = model(blobs(16, seed=step % 50)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    used = len(model.eval().encode(blobs(200, seed=99)).unique())
    assert used >= 8 if threshold else used <= 4


# two processes see half of each batch; afterwards their codebooks must be that of one process that saw all of it
TWO = """
import os, sys, torch
from torch import distributed
sys.path += sys.argv[1].split(os.pathsep)
from tiny_mask_vqvae import tiny
rank, port, out = int(sys.argv[2]), sys.argv[3], sys.argv[4]
torch.set_num_threads(1)
store = distributed.TCPStore("127.0.0.1", int(port), 2, rank == 0)
distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
book = tiny()._vq_vae
vectors = torch.randn(20, 5)
torch.manual_seed(4 + rank)
book.revive(vectors[10 * rank :][:10])
for _ in range(3):
    part = vectors[10 * rank :][:10]
    book.update(part, book.nearest(part))
torch.save(book.state_dict(), f"{out}/{rank}.pt")
distributed.barrier()
distributed.destroy_process_group()
"""


def test_two_processes_learn_one_codebook(tmp_path):
    with socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-c", TWO, os.pathsep.join(sys.path)]
    processes = [subprocess.Popen([*command, str(rank), port, str(tmp_path)]) for rank in range(2)]
    assert [process.wait(120) for process in processes] == [0, 0]
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    book = tiny()._vq_vae
    vectors = torch.randn(20, 5)
    torch.manual_seed(4)
    book.revive(vectors[:10])
    # of equal codes rounding says which is nearest, and it is another in batches of other sizes
    assert len(book._embedding.unique(dim=0)) == 6
    for _ in range(3):
        distances = torch.cdist(vectors, book._embedding).sort(1).values
        assert (distances[:, 1] - distances[:, 0]).min() > 1e-3
        book.update(vectors, book.nearest(vectors))
    for name, value in book.state_dict().items():
        torch.testing.assert_close(first[name], value)
        assert torch.equal(first[name], second[name])
