"""Tables as people have them: read rightly, or refused in one right line."""

from __future__ import annotations

import gzip
import itertools
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from isoembed.core import InputError
from isoembed.fitting.io.columns import Table
from isoembed.fitting.io.tables import read_groups
from isoembed.laws import Points, law_named
from tests.fitting.io.reading import points_of
from tests.laws.planted import TRUTH, planted

HOFFMANN = law_named("hoffmann")
ROWS = [("2e7", "2500000000", "3.8"), ("4e7", "1250000000", "3.75"), ("8e7", "625000000", "3.7")]
PLAIN = "N,D,loss\n" + "".join(",".join(row) + "\n" for row in ROWS)


def read(folder: Path, content: str | bytes, name: str = "runs.csv") -> Points:
    file = folder / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return points_of(file, HOFFMANN)


def semicolons(text: str) -> str:
    return text.replace(",", ";").replace(".", ",")


@pytest.mark.parametrize(
    "content",
    [
        PLAIN,
        PLAIN.replace("\n", "\r\n").encode("utf-8-sig"),
        PLAIN.replace("\n", "\r"),
        PLAIN.encode("utf-16"),
        PLAIN.replace(",", "\t"),
        PLAIN.replace(",", "|"),
        PLAIN.replace(",", ";"),
        semicolons(PLAIN),
        "sep=;\n" + semicolons(PLAIN),
        PLAIN.replace(",", ", "),
        '# fitted on a cluster, "quoted\n\n' + PLAIN.replace("\n4e7", "\n# note\n\n4e7"),
        PLAIN.replace("\n", ",,\n"),
        PLAIN.replace("\n", ",\n").replace("loss,", "loss") + ",,,\n",
        PLAIN.replace("loss\n", "loss,,\n"),
        PLAIN.replace("\n", ',"a\n# b",\n').replace('loss,"a\n# b",', "loss,note,note"),
        ",N,D,loss\n" + "".join(f"{n},{','.join(row)}\n" for n, row in enumerate(ROWS)),
        gzip.compress(PLAIN.encode(), mtime=0),
    ],
)
def test_forms_of_one_table(tmp_path: Path, content: str | bytes) -> None:
    """Each was a traceback, a wrong reason, or one byte away from it."""
    points = read(tmp_path, content, "runs.csv.gz" if content[:2] == b"\x1f\x8b" else "runs.csv")
    np.testing.assert_allclose(points.params, [2e7, 4e7, 8e7])
    np.testing.assert_allclose(points.loss, [3.8, 3.75, 3.7])
    np.testing.assert_allclose(points.tokens, [2.5e9, 1.25e9, 6.25e8])


@pytest.mark.parametrize("name", ["runs.parquet", "runs.pq", "RUNS.PARQUET", "runs"])
def test_parquet_is_parquet_whatever_its_name(tmp_path: Path, name: str) -> None:
    columns = {"N": [1, 2], "D": [Decimal("1.5"), Decimal("2.5")], "loss": ["3.0", " 2.5"], "eval.x": [1, None]}
    pyarrow.parquet.write_table(pa.table(columns), tmp_path / name)
    points = points_of(tmp_path / name, HOFFMANN)
    assert (points.tokens.tolist(), points.loss.tolist()) == ([1.5, 2.5], [3.0, 2.5])
    assert Table(tmp_path / name).read(["eval.x"]).numbers["eval.x"].tolist() == pytest.approx([1, np.nan], nan_ok=True)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("N,D,loss,loss\n1,2,3,4\n", "has 2 columns named loss"),
        (",,\n1,2,3\n4,5,6\n", "must name its columns in its first line"),
        ("", "needs a `params` column named N or params; it has none with a name"),
        (PLAIN + "1e9,1e9,diverged\n", "Column loss .* row 4 is 'diverged'"),
        (PLAIN + "1e9,1e9,\n", "`loss` must be a finite number in every row: row 4"),
        (PLAIN + "1e9,1e9,nan\n", "`loss` must be a finite number in every row: row 4"),
        (PLAIN + "1e9,1e9,inf\n", "`loss` must be a finite number in every row: row 4"),
        (PLAIN + "1e308,1e9,3\n", "`params` must be within 1e-30 and 1e.30 in every row: row 4"),
        (PLAIN + "1e9,1e9,1e-308\n", "`loss` must be within .* row 4"),
        (PLAIN + "1e9,1e9,3,4\n", "must have 3 cells in a row, as its header has: row 4 has 4"),
        (PLAIN + '1e9,1e9,"3\n', "not a readable CSV table"),
        (semicolons(PLAIN) + "1e9;1.5e9;3\n", "row 4 is '1.5e9', and both commas and points stand in numbers"),
        ("N;D;loss\n20.000.000;2.500.000.000;3,8\n", "Column N .* row 1 is '20.000.000'"),
        ("gr\xf6sse,N\n".encode("latin-1"), "must be UTF-8 or UTF-16 text"),
        (b"PK\x03\x04\0\0", "must be UTF-8 text, or Parquet"),
        (b"PAR1 and no more", "not a readable Parquet table"),
        (b"\x00\x01", "must be UTF-8 text, or Parquet"),
    ],
)
def test_what_is_no_table_is_one_right_line(tmp_path: Path, content: str | bytes, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read(tmp_path, content)


def test_only_what_is_read_must_be_sound_and_the_rest_is_named(tmp_path: Path) -> None:
    file = tmp_path / "runs.csv"
    file.write_text("N,D,loss,C,seed,,note\n1e7,1e9,3,,x,,\n2e7,1e9,2.9,n/a,y,,long\n")
    (group,) = read_groups(file, [HOFFMANN])
    assert group.notes == (
        "C is no positive number in 2 rows, as row 1: not compared with 6 N D",
        "columns not read: C, seed, note",
    )


def test_a_row_without_a_run_is_a_run_of_its_own(tmp_path: Path) -> None:
    """Blank names were a TypeError beside numbers, and one run of many rows beside texts."""
    file = tmp_path / "runs.csv"
    file.write_text("N,D,loss,run\n1e7,1e9,3,\n2e7,1e9,2.9,a\n4e7,1e9,2.8,a\n8e7,1e9,2.7,nan\n")
    assert points_of(file, HOFFMANN, {"run": "run"}).run.tolist() == [0, 1, 1, 2]
    file.write_text("N,D,loss,how\n1e7,1e9,3,full\n2e7,1e9,2.9,\n")
    (group,) = read_groups(file, [HOFFMANN], method_column="how")
    assert (group.method, len(group.points)) == ("full", 1)
    assert "1 run without a how left out" in group.notes


def test_failed_runs_are_set_aside_and_rows_keep_their_numbers(tmp_path: Path) -> None:
    file = tmp_path / "runs.csv"
    rows = ["failed,1e7,,", "done,1e7,1e9,3", "done,2e7,1e9,", "done,2e7,1e9,2.9"]
    file.write_text("status,params,tokens,loss\n" + "\n".join(rows))
    (group,) = read_groups(file, [HOFFMANN])
    assert group.rows == (2, 4)
    assert group.notes == ("2 rows of failed runs or without a loss set aside",)
    file.write_text("status,params,tokens,loss\n" + "\n".join([*rows, "done,2e7,-1,2.9"]))
    with pytest.raises(InputError, match="`tokens` must be positive in every row: row 5"):
        read_groups(file, [HOFFMANN])
    file.write_text("status,params,tokens,loss\n" + rows[0])
    with pytest.raises(InputError, match=r"all 1 of runs\.csv failed"):
        read_groups(file, [HOFFMANN])


def with_flop(folder: Path, unit_N: float, unit_D: float, unit_C: float, odd: float = 1.0) -> Path:
    points = planted("hoffmann", rows=12)
    rows = zip(points.params / unit_N, points.tokens / unit_D, odd * points.flop / unit_C, points.loss, strict=True)
    (folder / "runs.csv").write_text(
        "N,D,C,loss\n" + "".join(",".join(map(repr, map(float, row))) + "\n" for row in rows)
    )
    return folder / "runs.csv"


@pytest.mark.parametrize(
    ("units", "words"),
    [
        ((1e6, 1e9, 1), "N looks like millions: multiply it by 1e.06; D looks like billions: multiply it by 1e.09"),
        ((1, 1, 1e9), "C looks like GFLOP: multiply it by 1e.09"),
        ((1, 1e9, 1), "D looks like billions"),
        ((1e6, 1, 1), "N looks like millions"),
    ],
)
def test_a_unit_that_contradicts_is_named(tmp_path: Path, units: tuple[float, float, float], words: str) -> None:
    for law in ("hoffmann", "power"):
        with pytest.raises(InputError, match=f"contradicts 6 N D in 12 of 12 rows: .*{words}"):
            read_groups(with_flop(tmp_path, *units), [law_named(law)])


@pytest.mark.parametrize("odd", [1 / 3, 1.0, 8.0])
def test_a_budget_that_counts_more_or_less_is_fine(tmp_path: Path, odd: float) -> None:
    """Frozen blocks, attention, the token table: not every C is 6 N D."""
    (group,) = read_groups(with_flop(tmp_path, 1, 1, 1, odd), [HOFFMANN])
    assert group.notes == ("columns not read: C",)


def test_one_row_in_another_unit_is_named(tmp_path: Path) -> None:
    file = with_flop(tmp_path, 1, 1, 1)
    lines = file.read_text().splitlines()
    cells = lines[5].split(",")
    lines[5] = ",".join([repr(float(cells[0]) / 1e6), *cells[1:]])
    file.write_text("\n".join(lines))
    with pytest.raises(InputError, match=r"in 1 of 12 rows: 1e.06 times as much in row 5.* Mend these rows"):
        read_groups(file, [HOFFMANN])


def test_columns_as_trackers_export_them(tmp_path: Path) -> None:
    """Crashed runs were fitted, several epochs were taken for one, and no recipe names a method `LoRA`."""
    file = tmp_path / "runs.csv"
    rows = [f"{n}e7,{d}e9,{3 + 1 / n + 1 / d},finished,1,LoRA" for n in (1, 2, 4) for d in (1, 2)]
    rows += ["1e7,1e9,9,Crashed,1,lora", "1e7,1e9,9,running,1,lora", "4e7,2e9,2,Finished,8,lora"]
    file.write_text("N,D,loss,State,Num_Epochs,method\n" + "\n".join(rows))
    (group,) = read_groups(file, [HOFFMANN], method_column="method")
    assert group.method == "lora"
    assert [tried.label for tried in group.tested_settings] == ["lora r=32"]
    assert group.rows == (1, 2, 3, 4, 5, 6)
    assert group.repeats is not None
    assert group.repeats.epochs_R.tolist() == [8.0]


def test_rows_that_are_copies_are_said(tmp_path: Path) -> None:
    """Two exports in one file: twice the runs, and intervals too narrow by the root of two."""
    file = tmp_path / "runs.csv"
    rows = [f"{n}e7,{d}e9,{3 + 1 / n + 1 / d}" for n in (1, 2) for d in (1, 2)]
    file.write_text("N,D,loss\n" + "\n".join([*rows, *rows[:3]]))
    assert any("3 rows with the N, D, C and loss of another" in note for note in read_groups(file, [HOFFMANN])[0].notes)
    file.write_text("N,D,loss\n" + "\n".join([*rows, rows[0] + "1"]))
    assert read_groups(file, [HOFFMANN])[0].notes == ()


@pytest.mark.parametrize("name", ["learning_rate", "LR", "batch_size", "method", "train/lr"])
def test_runs_of_other_rates_or_methods_are_no_seeds(tmp_path: Path, name: str) -> None:
    """Their spread was taken for noise between seeds, by which fits are judged."""
    file = tmp_path / "runs.csv"
    runs = itertools.product((1, 2), (1, 2), (1, 2), (0, 1))
    rows = [f"{n}e7,{d}e9,{3 + 1 / n + 1 / d + 0.1 * k},{k},{seed}" for n, d, k, seed in runs]
    file.write_text(f"N,D,loss,{name},seed\n" + "\n".join(rows))
    assert read(tmp_path, file.read_text()).seed_sd() == pytest.approx(0.0)
    file.write_text("N,D,loss,note,seed\n" + "\n".join(rows))
    assert (read(tmp_path, file.read_text()).seed_sd() or 0.0) > 0.01


def test_odd_sizes_and_losses_are_said(tmp_path: Path) -> None:
    rows = "".join(f"{n},{d},{40 + 100 / n + 10 / d}\n" for n in (1, 2, 4) for d in (1, 2, 4))
    (tmp_path / "runs.csv").write_text("N,D,loss\n" + rows)
    (group,) = read_groups(tmp_path / "runs.csv", [HOFFMANN])
    few_N, few_D, perplexity = group.notes
    assert "N of 1 to 4 is few parameters" in few_N
    assert "D of 1 to 4 is few tokens" in few_D
    assert "perplexity" in perplexity
    (group,) = read_groups(tmp_path / "runs.csv", [law_named("power")], {"flop": "D"})
    assert "C of 1 to 4 is few FLOP" in group.notes[0]
    rows = "".join(f"{n}e7,{d}e9,{n * d}\n" for n in (1, 2, 4) for d in (1, 2, 4))
    (tmp_path / "runs.csv").write_text("N,D,loss\n" + rows)
    assert "the loss rises with N D: is the column a score?" in read_groups(tmp_path / "runs.csv", [HOFFMANN])[0].notes


def test_repeated_data_are_kept_apart_as_a_ledgers_are(tmp_path: Path) -> None:
    """As unique tokens they would bend the law; beside the single-epoch run of the same N and D they measure R*."""
    params = np.repeat([1e7, 4e7, 1.6e8], 3)
    tokens = np.tile([1e9, 4e9, 1.6e10], 3)
    loss = HOFFMANN.predict(TRUTH["hoffmann"], Points.of(params, tokens, np.ones(9)))
    fresh = [f"{n},{d},{nats},{d},1" for n, d, nats in zip(params, tokens, loss, strict=True)]
    again = [f"{n},{1.001 * d},{1.1 * nats},{d / 8},8" for n, d, nats in zip(params[:4], tokens, loss, strict=False)]
    alone = ["3e7,1e9,3,1e8,10"]
    file = tmp_path / "runs.csv"
    for columns in (5, 4):
        rows = ["N,D,loss,unique_tokens,epochs", *fresh, *again, *alone]
        file.write_text("\n".join(",".join(row.split(",")[:columns]) for row in rows))
        (group,) = read_groups(file, [HOFFMANN])
        assert len(group.points) == 9
        assert group.notes == (
            "5 runs with repeated data kept apart, 1 of them without a single-epoch run of the same recipe",
        )
        assert group.repeats is not None
        np.testing.assert_allclose(group.repeats.epochs_R, 8, rtol=0.01)
        np.testing.assert_allclose(group.repeats.single_epoch_loss_R, loss[:4])
    file.write_text("\n".join(["N,D,loss,unique_tokens,epochs", *fresh, "1e7,1e9,3,1e9,4"]))
    with pytest.raises(InputError, match=r"row 10 of runs\.csv has 4 and 1"):
        read_groups(file, [HOFFMANN])
    file.write_text("\n".join(["N,D,loss,unique_tokens,epochs", *again]))
    with pytest.raises(InputError, match=r"all 4 of runs\.csv repeat theirs"):
        read_groups(file, [HOFFMANN])


def checkpoints(folder: Path, header: str, columns: list[str], sizes: int = 4, each: int = 3) -> Path:
    """A table of runs, `each` of them with checkpoints; `columns` go by a run's number n and a checkpoint's k."""
    rows: list[str] = []
    for n in range(sizes):
        for k in range(1, each + 1):
            cells = [f"{2**n}e7", f"{k}e9", f"{2 + 1 / 2**n + 1 / k:.6f}"]
            rows.append(",".join([*cells, *(column.format(n=n, k=k, row=len(rows)) for column in columns)]))
    (folder / "runs.csv").write_text(f"N,D,loss,{header}\n" + "\n".join(rows) + "\n")
    return folder / "runs.csv"


@pytest.mark.parametrize("name", ["run", "run_id", "Run ID", "run_name", "RunName", "train/run_id", "wandb_run_id"])
@pytest.mark.parametrize("step", ["", ",step"])
def test_checkpoints_of_one_run_are_resampled_together(tmp_path: Path, name: str, step: str) -> None:
    """Each was fitted as a training of its own, with a hint among `columns not read`."""
    (group,) = read_groups(checkpoints(tmp_path, f"{name}{step}", ["r{n}", "{k}00"][: 1 + bool(step)]), [HOFFMANN])
    assert group.points.run.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert group.notes[0].startswith(f"rows of one `{name}` are taken for checkpoints of one run")
    assert "12 rows of 4 runs" in group.notes[0]


@pytest.mark.parametrize("step", ["step", "_step", "global_step", "train/global_step", "Iteration", "checkpoint"])
@pytest.mark.parametrize("other", [("seed", "1"), ("name", "m{n}"), ("run", "{k}")])
def test_steps_without_runs_are_asked_about(tmp_path: Path, step: str, other: tuple[str, str]) -> None:
    file = checkpoints(tmp_path, f"{other[0]},{step}", [other[1], "{k}00"])
    with pytest.raises(InputError, match="`run_col`"):
        read_groups(file, [HOFFMANN])
    assert read_groups(file, [HOFFMANN], {"run": other[0]})[0].points.run.tolist()[:2] != [0, 2]


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        ("run", ["{row}"]),
        ("Name,step", ["m{row}", "{k}00"]),
        ("run_id,_step", ["r{row}", "{k}00"]),
        ("steps", ["{k}00"]),
        ("step", ["100"]),
        ("name", ["pythia-{n}"]),
        ("seed", ["1"]),
    ],
)
def test_rows_that_are_runs_of_their_own_stay_so(tmp_path: Path, header: str, columns: list[str]) -> None:
    (group,) = read_groups(checkpoints(tmp_path, header, columns), [HOFFMANN])
    assert group.points.run.tolist() == list(range(12))
    assert not any("taken for" in note for note in group.notes)


def test_even_steps_of_tokens_look_like_checkpoints(tmp_path: Path) -> None:
    """Nothing names runs or steps, and the intervals came out too narrow without a word; a grid of budgets is none."""
    (group,) = read_groups(checkpoints(tmp_path, "note", ["x"], each=6), [HOFFMANN])
    assert any("24 of 24 rows lie at even steps of D" in note and "`run_col`" in note for note in group.notes)
    file = tmp_path / "grid.csv"
    rows = [f"{2**n}e7,{2**k}e9,{2 + 1 / 2**n + 1 / 2**k}" for n in range(4) for k in range(6)]
    file.write_text("N,D,loss\n" + "\n".join(rows))
    assert read_groups(file, [HOFFMANN])[0].notes == ()


def test_a_number_of_the_replicate_is_no_run(tmp_path: Path) -> None:
    (group,) = read_groups(checkpoints(tmp_path, "run", ["{k}"]), [HOFFMANN])
    assert group.points.run.tolist() == list(range(12))
    assert group.notes[0] == "`run` is the same for rows of several N: each row is taken for a run of its own"


@pytest.mark.parametrize("name", ["U", "unique", "uniq_tokens", "num_unique_tokens", "Unique Tokens", "U_D"])
def test_unique_tokens_by_any_name(tmp_path: Path, name: str) -> None:
    file = checkpoints(tmp_path, name, ["1e9"])
    (group,) = read_groups(file, [HOFFMANN])
    assert group.rows == (1, 4, 7, 10)  # of one epoch; the others repeat


@pytest.mark.parametrize("name", ["epoch", "Epochs", "num_epochs", "num-train-epochs", "train/epoch", "n_epochs"])
def test_epochs_by_any_name(tmp_path: Path, name: str) -> None:
    (group,) = read_groups(checkpoints(tmp_path, name, ["{k}"]), [HOFFMANN])
    assert group.rows == (1, 4, 7, 10)


@pytest.mark.parametrize(
    ("header", "cell", "words"),
    [
        (
            "epoch",
            "0",
            r"`epoch` must be epochs over the data, above 0 \(where it counts from 0, add 1\): row 1 .* has 0",
        ),
        ("unique", "1", "`unique` must be epochs over the data, or unique tokens of D: row 1 .* has 1e.09 epochs"),
        ("epochs", "1e9", "`epochs` must be epochs over the data"),
    ],
)
def test_what_counts_no_epochs_is_refused(tmp_path: Path, header: str, cell: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_groups(checkpoints(tmp_path, header, [cell]), [HOFFMANN])


@pytest.mark.parametrize(
    "text", ['{"log_history": [{"loss": 3.1, "step": 1}]}', '[{"N": 1, "D": 2, "loss": 3}]', "{\n"]
)
def test_json_is_no_table(text: str, tmp_path: Path) -> None:
    file = tmp_path / "trainer_state.json"
    file.write_text(text)
    with pytest.raises(InputError, match=r"CSV or Parquet.*is JSON"):
        points_of(file, HOFFMANN)
