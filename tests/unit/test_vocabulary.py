"""One vocabulary inside, the others as aliases: the table of the design, row by row."""

import pytest

from events.types import Status
from events.vocabulary import VOCABULARIES, UnknownWord, meant, said
from service.commands import state_table

# features.md, "Words"
TABLE = """
queued    | Queued    | Pending      | CREATED  | running     | pending  | SCHEDULED
starting  | Starting  | Initializing | CREATED  | running     | pending  | SCHEDULED
running   | Running   | Running      | STARTED  | running     | running  | RUNNING
stopping  | Running   | Stopping     | STARTED  | running     | running  | RUNNING
idle      | Running   | Idle         | STARTED  | running     | running  | RUNNING
completed | Completed | Completed    | FINISHED | finished    | finished | FINISHED
failed    | Failed    | Failed       | FAILED   | failed      | failed   | FAILED
killed    | Killed    | Terminated   | FAILED   | interrupted | killed   | KILLED
crashed   | Failed    | Failed       | FAILED   | failed      | crashed  | FAILED
"""
SYSTEMS = ("datature", "vessl", "finetuner", "runicorn", "wandb", "mlflow")
ROWS = [tuple(cell.strip() for cell in line.split("|")) for line in TABLE.strip().splitlines()]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_every_status_has_the_words_of_the_design(row: tuple[str, ...]) -> None:
    status = Status(row[0])
    assert said(None, status) == row[0]
    for system, word in zip(SYSTEMS, row[1:], strict=True):
        assert said(system, status) == word
        assert status in meant(system, word.swapcase())


def test_a_word_means_every_status_that_it_is_said_for() -> None:
    assert meant("mlflow", "RUNNING") == {Status.RUNNING, Status.STOPPING, Status.IDLE}
    assert meant("runicorn", "running") == meant("mlflow", "running") | {Status.QUEUED, Status.STARTING}
    assert meant(None, "running") == {Status.RUNNING}
    for system, words in VOCABULARIES.items():
        assert {status for word in words.values() for status in meant(system, word)} == set(words)


@pytest.mark.parametrize("system", ["kubeflow", "", "wandb "])
def test_an_unknown_vocabulary_names_those_that_exist(system: str) -> None:
    with pytest.raises(UnknownWord, match="tachograph, datature, vessl, finetuner, runicorn, wandb, mlflow") as refusal:
        said(system, Status.QUEUED)
    assert refusal.value.parameter == "as"


def test_an_unknown_word_names_those_that_exist_and_whose_it_is() -> None:
    with pytest.raises(UnknownWord, match=r"queued, starting, running.*word of vessl: say which with `as`"):
        meant(None, "Terminated")
    with pytest.raises(UnknownWord, match=r"pending, running, finished, failed, killed, crashed, deleted$"):
        meant("wandb", "paused")


def test_the_documented_table_is_generated_from_the_code() -> None:
    page = state_table.document()
    assert "| kill | – | killed | kill_requested |" in page
    assert "| killed | Killed | Terminated | FAILED | interrupted | killed | KILLED |" in page
    refused = next(line for line in page.splitlines() if line.startswith("| delete | "))
    assert refused.split("|")[2:8] == [" – "] * 6
