"""The counter-based generator: published vectors, independence of the batch, and a look at the distribution."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hpbench.seeding import (
    Stream,
    derive_seed,
    normal_from_uniform,
    random_words,
    random_words_at,
    stream_keys,
    uniform,
)

# From the known-answer file of the Random123 distribution (Salmon et al., 2011): counter, key, output of philox4x32-10.
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def reference(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x32-10 in plain integers, straight from the paper."""
    c, k = list(counter), list(key)
    for _ in range(10):
        left, right = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [right >> 32 ^ c[1] ^ k[0], right & 0xFFFFFFFF, left >> 32 ^ c[3] ^ k[1], left & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


def signed(low: int, high: int) -> int:
    """Two 32-bit words as one int64."""
    word = high << 32 | low
    return word - (1 << 64) if word >= 1 << 63 else word


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_the_reference_gives_the_published_answers(counter: str, key: str, expected: str) -> None:
    assert reference(words(counter), words(key)) == words(expected)


def test_known_answer_of_zero() -> None:
    zero = torch.zeros(1, dtype=torch.int64)
    assert random_words(zero, zero, 4).tolist() == [words(KNOWN_ANSWERS[0][2])]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_published_keys_and_calls_at_every_reachable_block(counter: str, key: str, expected: str) -> None:
    """The block half of the published counters is out of reach (2**64 words), so it runs against the reference."""
    c, k = words(counter), words(key)
    keys, calls = torch.tensor([signed(*k)]), torch.tensor([signed(*c[2:])])
    for block in (0, 1, 12345, 0xFFFFFFFF, 0x1_0000_0001):
        drawn = random_words(keys, calls, 4, start=4 * block)
        assert drawn.tolist() == [reference([block & 0xFFFFFFFF, block >> 32, *c[2:]], k)]


def test_a_member_does_not_depend_on_its_batch() -> None:
    keys = torch.from_numpy(stream_keys(range(64))[:, Stream.ACTION].copy())
    calls = torch.arange(64) * 7
    together = random_words(keys, calls, 50)
    for member in (0, 1, 31, 63):
        alone = random_words(keys[member : member + 1], calls[member : member + 1], 50)
        assert torch.equal(alone[0], together[member])


def test_a_long_draw_is_its_parts() -> None:
    keys, calls = torch.tensor([5, -6]), torch.tensor([0, 1 << 40])
    whole = random_words(keys, calls, 100)
    assert torch.equal(
        whole, torch.cat([random_words(keys, calls, 60), random_words(keys, calls, 40, start=60)], dim=1)
    )
    assert torch.equal(whole[:, :37], random_words(keys, calls, 37))


def test_words_at_places_are_those_of_the_row() -> None:
    keys, calls = torch.from_numpy(stream_keys([1, 2])[:, 3].copy()), torch.tensor([0, 7])
    row, index = random_words(keys, calls, 40), torch.tensor([[0, 1, 2, 3, 17, 39], [5, 4, 4, 38, 30, 11]])
    assert torch.equal(random_words_at(keys, calls, index), row.gather(1, index))


def test_start_must_be_at_a_block() -> None:
    with pytest.raises(ValueError, match="multiple of 4, got 3"):
        random_words(torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64), 4, start=3)


@pytest.mark.parametrize(("members", "count"), [(0, 8), (3, 0), (0, 0)])
def test_empty_draws(members: int, count: int) -> None:
    zeros = torch.zeros(members, dtype=torch.int64)
    assert random_words(zeros, zeros, count).shape == (members, count)


def test_streams_calls_and_members_share_no_word() -> None:
    keys = torch.from_numpy(stream_keys(range(20)).reshape(-1).copy())
    drawn = torch.cat([random_words(keys, torch.full_like(keys, call), 8) for call in range(4)])
    blocks = {tuple(row) for row in drawn.reshape(-1, 4).tolist()}
    assert len(blocks) == 20 * len(Stream) * 4 * 2


def test_stream_keys_are_pinned() -> None:
    """Keys must never change: every stored record depends on them."""
    keys = stream_keys([0, 1, 2**40])
    assert keys.dtype == np.int64
    assert keys.shape == (3, len(Stream))
    expected = np.random.SeedSequence(1).spawn(len(Stream))[Stream.MINIBATCH].generate_state(1, np.uint64)[0]
    assert keys.view(np.uint64)[1, Stream.MINIBATCH] == expected
    assert keys[0, :5].tolist() == [
        8668861027912758289,
        4881901421217228719,
        -1994056684117129719,
        -5208354772856091714,
        -1714681974208919815,
    ]
    assert np.array_equal(stream_keys([7, 0])[1], keys[0])


def test_stream_order_is_pinned() -> None:
    """New streams go at the end."""
    expected = ["INITIALISATION", "ACTION", "ENVIRONMENT", "MINIBATCH", "EVALUATION"]
    assert [stream.name for stream in Stream][:5] == expected
    assert [stream.value for stream in Stream] == list(range(len(Stream)))


def test_negative_seeds_are_refused() -> None:
    with pytest.raises(ValueError):
        stream_keys([-1])


def test_derive_seed() -> None:
    assert derive_seed(1, 2) == derive_seed(1, 2)
    assert len({derive_seed(a, b) for a in range(30) for b in range(30)}) == 900
    assert all(0 <= derive_seed(a) < 2**63 for a in range(100))


def test_uniform_is_uniform() -> None:
    keys = torch.from_numpy(stream_keys(range(8))[:, Stream.ENVIRONMENT].copy())
    numbers = uniform(keys, torch.arange(8), 50_000)
    assert numbers.dtype == torch.float32
    assert numbers.min() >= 0
    assert numbers.max() < 1
    n = numbers.numel()
    counts = torch.histc(numbers, bins=64, min=0, max=1)
    chi_squared = float(((counts - n / 64) ** 2 / (n / 64)).sum())
    assert abs(chi_squared - 63) < 4 * math.sqrt(2 * 63)
    serial = torch.corrcoef(torch.stack((numbers[:, :-1].flatten(), numbers[:, 1:].flatten())))[0, 1]
    members = torch.corrcoef(numbers) - torch.eye(8)
    assert abs(float(serial)) < 4 / math.sqrt(n)
    assert float(members.abs().max()) < 4.5 / math.sqrt(50_000)


def test_uniform_is_a_multiple_of_2_to_the_minus_24() -> None:
    key, call = torch.tensor([3]), torch.tensor([0])
    assert torch.equal(uniform(key, call, 64) * 2**24, (random_words(key, call, 64) >> 8).to(torch.float32))


def test_normal_from_uniform() -> None:
    keys, calls = torch.tensor([11]), torch.tensor([0])
    numbers = uniform(keys, calls, 400_000)[0].double()
    normal = normal_from_uniform(numbers[0::2], numbers[1::2])
    n = len(normal)
    assert abs(float(normal.mean())) < 4 / math.sqrt(n)
    assert abs(float(normal.var()) - 1) < 4 * math.sqrt(2 / n)
    assert abs(float((normal.abs() < 1).double().mean()) - 0.682689) < 4 * math.sqrt(0.68 * 0.32 / n)


def test_normal_from_uniform_is_finite_at_the_ends() -> None:
    ends = torch.tensor([0.0, 1.0 - 2.0**-24])
    assert torch.isfinite(normal_from_uniform(ends, ends)).all()
