"""Which slots a machine offers, and who has them."""

import pytest

from workers.gpu.accelerators import Gpu, probe, slots_of
from workers.gpu.slots import Slot, SlotPool, visible_devices

H200 = [Gpu(0, "GPU-aaaa", "NVIDIA H200"), Gpu(1, "GPU-bbbb", "NVIDIA H200")]


@pytest.mark.parametrize(
    ("gpus", "visible", "cpu_slots", "expected"),
    [
        ([], None, None, ["cpu:0", "cpu:1"]),
        ([], None, 3, ["cpu:0", "cpu:1", "cpu:2"]),
        ([], None, 0, []),
        (H200, None, None, ["gpu:GPU-aaaa", "gpu:GPU-bbbb", "cpu:0", "cpu:1"]),
        (H200, None, 0, ["gpu:GPU-aaaa", "gpu:GPU-bbbb"]),
        (H200, None, 1, ["gpu:GPU-aaaa", "gpu:GPU-bbbb", "cpu:0"]),
        (H200, "1", 0, ["gpu:GPU-bbbb"]),
        (H200, "GPU-aa", 0, ["gpu:GPU-aaaa"]),
        (H200, "", None, ["cpu:0", "cpu:1"]),
        ([Gpu(0, "", "")], None, 0, ["gpu:0"]),
    ],
)
def test_a_machine_offers_its_gpus_and_cpu_slots_beside_them(gpus, visible, cpu_slots, expected) -> None:
    assert [slot.id for slot in slots_of(gpus, visible, cpu_slots)] == expected


def test_probing_a_machine_never_fails() -> None:
    assert all(gpu.name for gpu in probe())


@pytest.mark.parametrize(
    ("accelerator", "count", "expected"),
    [
        ("cpu", 1, ("cpu:0",)),
        ("gpu", 1, ("gpu:a",)),
        ("NVIDIA H200", 2, ("gpu:a", "gpu:b")),
        ("gpu", 3, None),
        ("TPU", 1, None),
        ("cpu", 0, None),
    ],
)
def test_slots_are_given_by_kind_and_count(accelerator, count, expected) -> None:
    pool = SlotPool([Slot("gpu:a", "NVIDIA H200", "a"), Slot("gpu:b", "NVIDIA H200", "b"), Slot("cpu:0", "cpu")])
    given = pool.allot(accelerator, count, "run")
    assert (given and tuple(slot.id for slot in given)) == expected
    assert pool.free == 3 - len(given or ())


def test_a_slot_has_one_holder_until_it_is_released() -> None:
    pool = SlotPool([Slot("cpu:0", "cpu"), Slot("cpu:1", "cpu")])
    pool.hold(["cpu:0"], "adopted")
    assert [slot.id for slot in pool.allot("cpu", 1, "second") or ()] == ["cpu:1"]
    assert pool.allot("cpu", 1, "third") is None
    assert pool.has("cpu", 2)
    assert not pool.has("cpu", 3)
    pool.release("adopted")
    assert [slot.id for slot in pool.allot("cpu", 1, "third") or ()] == ["cpu:0"]
    assert pool.free == 0


def test_a_held_slot_that_the_machine_no_longer_has_does_not_count() -> None:
    pool = SlotPool([Slot("cpu:0", "cpu")])
    pool.hold(["gpu:gone"], "adopted")
    assert pool.free == 1


def test_a_program_sees_its_own_gpus_and_a_cpu_run_sees_none() -> None:
    assert visible_devices([Slot("gpu:a", "H200", "GPU-a"), Slot("gpu:b", "H200", "GPU-b")]) == {
        "CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b"
    }
    assert visible_devices([Slot("cpu:0", "cpu")]) == {"CUDA_VISIBLE_DEVICES": ""}
