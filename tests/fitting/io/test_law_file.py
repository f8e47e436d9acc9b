"""Tables are read or refused by row and column; a law survives its file to the last bit."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from isoembed.core import InputError
from isoembed.fitting.bootstrap import bootstrap
from isoembed.fitting.fit import fit
from isoembed.fitting.holdout import holdout
from isoembed.fitting.io.law_file import LawFile, LawSet
from isoembed.fitting.notes import UNSEALED, FitNote, remark
from isoembed.fitting.settings import Group
from isoembed.laws import Points, law_named
from isoembed.recommendation.recommend import shipped_law
from tests.fitting.io.reading import points_of
from tests.laws.planted import planted

HOFFMANN = law_named("hoffmann")


def written(folder: Path, text: str) -> Path:
    file = folder / "runs.csv"
    file.write_text(text)
    return file


def test_a_csv_is_read_by_its_usual_names_and_the_rest_ignored(tmp_path: Path) -> None:
    points = points_of(written(tmp_path, "N,D,C,loss,note\n1e6,1e8,-3,3.5,x\n2e6,1e8,-3,3.25,y\n"), HOFFMANN)
    assert points.params.tolist() == [1e6, 2e6]
    assert points.flop.tolist() == [6e14, 12e14]
    assert points.fraction.tolist() == [1.0, 1.0]


def test_parquet_and_csv_give_the_same_points(tmp_path: Path) -> None:
    points = planted("hoffmann", rows=5)
    points_only = Points.of(points.params, points.tokens, points.loss)
    columns = {"N": points.params, "D": points.tokens, "L": points.loss}
    pyarrow.parquet.write_table(pa.table(columns), tmp_path / "runs.parquet")
    rows = "\n".join(",".join(repr(float(v)) for v in row) for row in zip(*columns.values(), strict=True))
    csv = points_of(written(tmp_path, "N,D,L\n" + rows), HOFFMANN)
    assert csv.fingerprint == points_of(tmp_path / "runs.parquet", HOFFMANN).fingerprint == points_only.fingerprint


def test_named_columns_shares_and_runs_are_read(tmp_path: Path) -> None:
    file = written(tmp_path, "size,seen,val,S,job\n1e6,1e8,3.5,0.5,a\n2e6,1e8,3.25,1,b\n2e6,2e8,3.0,1,b\n")
    names = {"params": "size", "tokens": "seen", "loss": "val", "run": "job"}
    points = points_of(file, law_named("embedding"), names)
    assert points.fraction.tolist() == [0.5, 1.0, 1.0]
    assert points.run.tolist() == [0, 1, 1]
    assert points_of(file, HOFFMANN, names).fraction.tolist() == [1.0, 1.0, 1.0]


def test_the_power_law_needs_no_sizes_and_takes_six_n_d_without_c(tmp_path: Path) -> None:
    power = law_named("power")
    assert points_of(written(tmp_path, "C,loss\n1e15,3\n1e16,2\n"), power).flop.tolist() == [1e15, 1e16]
    assert points_of(written(tmp_path, "N,D,loss\n1e6,1e9,3\n1e7,1e9,2\n"), power).flop.tolist() == [6e15, 6e16]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("N,loss\n1,2\n", r"needs a `tokens` column named D or tokens; it has N, loss.*`tokens_col`"),
        ("N,D,loss\n1,2,nan\n", "`loss` must be a finite number in every row: row 1 is nan"),
        ("N,D,loss\n1,2,3\n1,,3\n", "`tokens` must be a finite number in every row: row 2"),
        ("N,D,loss\n1,2,3\n1,2,-3\n", "`loss` must be positive in every row: row 2 is -3"),
        ("N,D,loss\n0,2,3\n", "`params` must be positive in every row: row 1 is 0"),
        ("N,D,loss\n1,2,3\n1,2,three\n", "Column loss of runs.csv must hold numbers: row 2 is 'three'"),
        ("N,D,loss\n1,2,3\n1,2\n", "must have 3 cells in a row, as its header has: row 2 has 2"),
        ("N,D,loss\n", "none"),
        ("", "it has none with a name"),
    ],
)
def test_a_table_that_cannot_be_fitted_is_refused_by_name(tmp_path: Path, text: str, match: str) -> None:
    with pytest.raises(InputError, match=match):
        points_of(written(tmp_path, text), HOFFMANN)


def test_a_missing_file_a_missing_named_column_and_a_false_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not there"):
        points_of(tmp_path / "no.csv", HOFFMANN)
    file = written(tmp_path, "N,D,loss\n1,2,3\n")
    with pytest.raises(InputError, match="`flop` column named FLOPs"):
        points_of(file, HOFFMANN, {"flop": "FLOPs"})
    with pytest.raises(InputError, match="got size"):
        points_of(file, HOFFMANN, {"size": "N"})


def test_one_size_only_is_refused_by_the_fit(tmp_path: Path) -> None:
    rows = "".join(f"1e6,{d}e8,{3 + 1 / d}\n" for d in range(1, 9))
    with pytest.raises(InputError, match=r"differ in `params`: all 8 rows have 1e\+06"):
        fit(HOFFMANN, points_of(written(tmp_path, "N,D,loss\n" + rows), HOFFMANN))


def test_a_law_file_keeps_every_bit_and_the_promised_keys(tmp_path: Path) -> None:
    points = planted("hoffmann", rows=40, noise=0.01)
    boot = bootstrap(HOFFMANN, points, draws=30)
    law = LawFile.of(
        boot,
        Group("full", points, tuple(range(40))),
        source="runs.csv",
        holdouts=(holdout(HOFFMANN, points, "largest-budget", draws=20),),
    )
    law.save(tmp_path / "law.json")
    again = LawFile.load(tmp_path / "law.json")
    assert again == law
    np.testing.assert_array_equal(again.bootstrap().theta_BP, boot.theta_BP)
    raw = json.loads((tmp_path / "law.json").read_text())
    for key in ("law", "params", "objective", "n_points", "starts_agreeing", "status", "range", "holdout"):
        assert key in raw
    assert set(raw["params"]["alpha"]) == {"value", "low", "high"}
    assert raw["params"]["alpha"]["value"] == boot.fit.params["alpha"]
    assert set(raw["versions"]) == {"isoembed", "numpy", "scipy"}
    assert raw["data_fingerprint"] == points.fingerprint


def test_what_a_law_says_of_itself_is_values_and_files_of_sentences_alone_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sentence that was worded anew made all files of before `changed after they were written`."""
    told = remark("worse-rates", runs=3)
    law = fitted_law().with_facts(told)
    law.save(tmp_path / "law.json")
    raw = json.loads((tmp_path / "law.json").read_text())
    assert raw["notes"] == ["3 runs at worse learning rates of the same recipe left out"]
    assert raw["facts"] == [{"kind": "remark", "code": "worse-rates", "fields": {"runs": 3}}]
    monkeypatch.setitem(FitNote.sentences, "worse-rates", ("{runs:@run} left out for their rate",))
    again = LawFile.load(tmp_path / "law.json")
    assert (again.facts, again.notes) == ((told,), ("3 runs left out for their rate",))
    # the shipped laws were sealed when files held sentences alone, one of which is worded otherwise today
    shipped = shipped_law("nano")
    assert shipped is not None
    assert all(each.facts and each.digest is None for each in shipped.laws)
    assert "not told from zero" in shipped.laws[0].alternatives[0].fit.simplified
    (tmp_path / "law.json").write_text(json.dumps(raw | {"facts": [], "digest": None, "format": 1}))
    assert UNSEALED in LawFile.load(tmp_path / "law.json").facts
    wrongs: tuple[dict[str, object], ...] = ({"code": "nothing"}, {"fields": {}}, {"fields": {"runs": "x"}})
    for wrong in wrongs:
        facts = [raw["facts"][0] | wrong]
        (tmp_path / "law.json").write_text(json.dumps(raw | {"facts": facts, "digest": None, "format": 1}))
        with pytest.raises(InputError, match="is no fact of these fields"):
            LawFile.load(tmp_path / "law.json")


def fitted_law() -> LawFile:
    points = planted("hoffmann", rows=40, noise=0.01)
    return LawFile.of(bootstrap(HOFFMANN, points, draws=30), Group("full", points, tuple(range(40))), source="runs.csv")


def test_a_law_without_draws_and_a_damaged_file_are_refused(tmp_path: Path) -> None:
    points = planted("hoffmann", rows=40, noise=0.01)
    plain = LawFile.of(fit(HOFFMANN, points), Group(None, points, ()), source="runs.csv")
    with pytest.raises(InputError, match="`bootstrap=1000`"):
        plain.bootstrap()
    plain.save(tmp_path / "law.json")
    (tmp_path / "law.json").write_text((tmp_path / "law.json").read_text()[:-40])
    with pytest.raises(InputError, match="is not a law"):
        LawFile.load(tmp_path / "law.json")
    with pytest.raises(InputError, match="cannot be read"):
        LawFile.load(tmp_path / "none.json")


def test_a_law_of_another_format_and_one_that_no_fit_gives_are_refused(tmp_path: Path) -> None:
    """Hand-made, without a digest: a future format was read as this one, and draws without spread were certainty."""
    points = planted("hoffmann", rows=40, noise=0.03)
    boot = bootstrap(HOFFMANN, points, draws=30)
    LawFile.of(boot, Group("full", points, ()), source="runs.csv").save(tmp_path / "law.json")
    raw = json.loads((tmp_path / "law.json").read_text()) | {"digest": None, "format": 1}
    fitted = [boot.fit.params[name] for name in raw["draws"]["names"]]
    for change, why in (
        ({"format": 3}, "of format 3"),
        ({"format": True}, "of format True"),
        ({"format": 1.0}, "of format 1.0"),
        ({"format": 2}, "its digest, by which a change would be noticed, was taken out"),
        ({"objective": 1e9}, "its objective"),
        ({"n_points": -1}, "n_points"),
        ({"level": 2.0}, "level"),
        ({"seed_sd": 900.0}, "off by 900"),
        ({"draws": raw["draws"] | {"values": [fitted] * 30}}, "are all the same"),
    ):
        (tmp_path / "law.json").write_text(json.dumps(raw | change))
        with pytest.raises(InputError, match=why):
            LawSet.load(tmp_path / "law.json")
    (tmp_path / "law.json").write_text(json.dumps({"laws": [raw, raw]}))
    with pytest.raises(InputError, match="one law per method"):
        LawSet.load(tmp_path / "law.json")


@pytest.mark.parametrize("name", ["nano", "depth"])
def test_laws_of_the_first_notes_are_read(name: str) -> None:
    """Their digests are of notes without what notes have had since: all were refused as changed after they were
    written."""
    file = Path(__file__).with_name(f"{name}_laws_of_first_notes.json.gz")
    laws = LawSet.model_validate_json(gzip.decompress(file.read_bytes()))
    assert len(laws.laws) > 5
    for law in laws.laws:
        assert law.trusted(file).facts == law.facts
        with pytest.raises(InputError, match="changed after it was written"):
            law.model_copy(update={"n_points": law.n_points + 1}).trusted(file)
