from itertools import islice
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from scipy import stats

from ddiff.data import Spheres
from ddiff.data.loading import TrainBatches, ValBatches, batches_per_epoch
from ddiff.system.random import generator


class Numbers:
    """Sample i is the image [[4i, 4i + 1, 4i + 2, 4i + 3]]."""

    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length

    def batch(self, indices):
        x = 4.0 * indices[:, None, None, None] + torch.arange(4.0)
        return x, indices.clone()


def stream(length=23, **options):
    return TrainBatches(Numbers(length), **({"batch_size": 5, "seed": 7} | options))


def small(**options):
    data = Spheres(**({"batch_size": 4, "seed": 0, "size": 8, "num": 22, "num_val": 10} | options))
    data.setup("fit")
    return data


def one_of(rank, world_size, position=0, limit=1.0, **options):
    """The data of one of several ranks, after `position` batches of all."""
    data = small(**options)
    data.trainer = SimpleNamespace(
        global_rank=rank,
        world_size=world_size,
        limit_val_batches=limit,
        lightning_module=SimpleNamespace(batches_seen=position),
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )
    return data


def same(a, b):
    return all(torch.equal(p[0], q[0]) for p, q in zip(a, b, strict=True))


def test_batches_per_epoch():
    assert batches_per_epoch(23, 5) == 4
    assert batches_per_epoch(3, 5) == 1
    assert small().batches_per_epoch == 5


def test_every_sample_at_most_once_an_epoch_and_epochs_differ():
    batches = stream(length=20)
    epochs = [torch.cat([batches[4 * e + k][1] for k in range(4)]) for e in range(3)]
    for epoch in epochs:
        assert sorted(epoch.tolist()) == list(range(20))
    assert epochs[0].tolist() != epochs[1].tolist()
    expected = torch.randperm(20, generator=generator("cpu", 7, "order", 1))
    assert torch.equal(epochs[1], expected)


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_take_the_batches_of_one_stream_in_turn(world_size):
    alone = list(islice(small(flip=True).train_dataloader(), 4 + 3 * world_size))
    for rank in range(world_size):
        data = one_of(rank, world_size, flip=True, position=4)
        assert same(list(islice(data.train_dataloader(), 3)), alone[4 + rank :: world_size])
        assert data.batches_per_epoch == small().batches_per_epoch


def test_a_set_smaller_than_a_batch_repeats_its_order():
    indices = stream(length=3, batch_size=8).indices(0)
    assert len(indices) == 8
    assert torch.equal(indices[:3], indices[3:6])
    assert sorted(indices[:3].tolist()) == [0, 1, 2]


def test_batches_are_pure_in_n():
    forward, backward = stream(), stream()
    seen = [forward[n] for n in range(13)]
    assert same([backward[n] for n in reversed(range(13))], seen[::-1])


def test_flips_are_keyed_and_fair():
    plain, flipped = stream(batch_size=20, length=100), stream(batch_size=20, length=100, flip=True)
    count = 0
    for n in range(50):
        (x, y), (z, w) = plain[n], flipped[n]
        assert torch.equal(y, w)
        mirrored = (z == x.flip(-1)).flatten(1).all(1)
        assert torch.equal(z[~mirrored], x[~mirrored])
        expected = torch.rand(20, generator=generator("cpu", 7, "flip", 0, n)) < 0.5
        assert torch.equal(mirrored, expected)
        count += int(mirrored.sum())
    assert stats.binomtest(count, 1000).pvalue > 0.001


def test_validation_is_in_order_whole_and_split_over_ranks():
    batches = ValBatches(Numbers(11), 4)
    assert [batches[i][1].tolist() for i in range(3)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
    alone = list(small().val_dataloader())
    assert [len(x) for x, _ in alone] == [4, 4, 2]
    ranks = [list(one_of(rank, 2).val_dataloader()) for rank in range(2)]
    assert same(ranks[0], [alone[0], alone[2]])
    assert same(ranks[1], [alone[1], alone[0]])  # as many as the other; the module leaves it out


@pytest.mark.parametrize(("limit", "number"), [(1.0, 3), (2, 2), (9, 3), (0.7, 2), (1, 1), (0, 0)])
def test_a_limit_on_validation_counts_the_batches_of_all_ranks(limit, number):
    ranks = [one_of(rank, 2, limit=limit) for rank in range(2)]
    assert [data.num_val_batches for data in ranks] == [number] * 2
    assert [len(list(data.val_dataloader())) for data in ranks] == [-(-number // 2)] * 2


def test_a_loader_started_at_n_continues_the_stream():
    data = small(flip=True, centre="random")
    seen = list(islice(data.train_dataloader(), 13))
    fresh = small(flip=True, centre="random")
    fresh.load_state_dict({"position": 6})
    assert same(list(islice(fresh.train_dataloader(), 7)), seen[6:])
    loader = data.train_dataloader()
    assert same(list(islice(loader, 3)), list(islice(loader, 3)))  # iterating again starts again


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_workers_change_nothing():
    alone = list(islice(small(flip=True).train_dataloader(), 12))
    together = list(islice(small(flip=True, num_workers=2).train_dataloader(), 12))
    assert same(alone, together)


def test_loaders_leave_the_global_generator_alone():
    before = torch.random.get_rng_state()
    data = small()
    list(data.val_dataloader())
    list(islice(data.train_dataloader(), 3))
    assert torch.equal(torch.random.get_rng_state(), before)


class Recorder(LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.batches_seen, self.seen, self.validated = 0, [], 0

    def training_step(self, batch, _):
        x, y = batch
        assert y is None
        self.batches_seen += 1
        self.seen.append(x)
        return self.weight * x.mean()

    def validation_step(self, batch, _):
        self.validated += len(batch[0])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def on_save_checkpoint(self, checkpoint):
        checkpoint["seen"] = self.batches_seen

    def on_load_checkpoint(self, checkpoint):
        self.batches_seen = checkpoint["seen"]


@pytest.mark.filterwarnings("ignore")  # Lightning's advice
def test_lightning_resumes_where_the_checkpoint_was(tmp_path):
    def fit(steps, checkpoint=None):
        module, data = Recorder(), Spheres(batch_size=4, seed=0, size=8, num=22, num_val=10)
        trainer = Trainer(
            max_steps=steps,
            max_epochs=-1,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            val_check_interval=4,
            check_val_every_n_epoch=None,
        )
        trainer.fit(module, data, ckpt_path=checkpoint)
        return trainer, module

    _, straight = fit(13)
    assert straight.validated > 0
    trainer, first = fit(7)
    trainer.save_checkpoint(tmp_path / "at7.ckpt")
    _, second = fit(13, tmp_path / "at7.ckpt")
    assert [len(m.seen) for m in (straight, first, second)] == [13, 7, 6]
    for a, b in zip(straight.seen, first.seen + second.seen, strict=True):
        assert torch.equal(a, b)
