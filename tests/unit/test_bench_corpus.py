"""The corpus has the shapes that it says, and is the same every time."""

import math

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bench import corpus, curves

POINTS = 20_000


def test_a_curve_is_the_same_every_time_and_came_from_float32() -> None:
    for series in range(2 * len(curves.SHAPES)):
        one = curves.curve(series, 100, POINTS)
        curves.curve.cache_clear()
        assert one.tobytes() == curves.curve(series, 100, POINTS).tobytes()
        assert one.tobytes() == one.astype(np.float32).astype(np.float64).tobytes()


def test_series_of_one_shape_have_names_and_noise_of_their_own() -> None:
    kinds = len(curves.SHAPES)
    assert len(set(curves.names(3 * kinds))) == 3 * kinds
    assert curves.curve(0, 0, 10).tobytes() != curves.curve(kinds, 0, 10).tobytes()


def test_the_first_ten_are_finite_and_at_every_step_and_the_others_are_not() -> None:
    for series in range(10):
        assert np.isfinite(curves.curve(series, 0, POINTS)).all()
        assert curves.steps(series, 5, 3).tolist() == [5, 6, 7]
    assert curves.steps(10, 5, 3).tolist() == [500, 600, 700]
    missing = curves.curve(11, 0, POINTS)
    assert np.isnan(missing).any()
    assert np.isinf(missing).any()


def test_there_are_spikes_and_plateaus() -> None:
    spiking = curves.curve(1, 0, POINTS)
    assert spiking.max() > 2 * np.quantile(spiking, 0.99)
    assert (np.diff(curves.curve(3, 5_000, POINTS)) == 0).all()


def test_a_body_of_json_says_missing_values_in_words_and_others_as_they_are() -> None:
    name = "train/gradient_norm_unscaled"
    values = msgspec.json.decode(corpus.body("JSON", 1, 12, 0, 5_000))["series"][name]["value"]
    assert {value for value in values if isinstance(value, str)} == {"NaN", "Infinity"}
    assert sum(isinstance(value, float) and not math.isfinite(value) for value in values) == 0
    assert len(values) == 5_000
    packed = msgspec.msgpack.decode(corpus.body("MessagePack", 1, 12, 0, 5_000))["series"][name]["value"]
    table = pa.ipc.open_stream(corpus.body("Arrow", 1, 12, 0, 5_000)).read_all()
    rows = table.filter(pc.equal(table["metric"].cast(pa.string()), name))["value"].to_pylist()
    exact = np.array([float(value) for value in values]).tobytes()
    assert np.array(packed).tobytes() == np.array(rows).tobytes() == exact
