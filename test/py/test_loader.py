"""What the loader says when its workers do not do as they should."""

import pytest

from coldframe import loader


@pytest.mark.parametrize("error", [ConnectionResetError(104, "reset"), EOFError(), FileNotFoundError(2, "no socket")])
def test_a_worker_that_dies_while_it_hands_over_is_told_as_dead(error, monkeypatch):
    def parts():
        yield "first"
        raise error

    monkeypatch.setattr(loader, "DEATH_SECONDS", 0)
    told = loader._tell_deaths(parts())
    assert next(told) == "first"
    with pytest.raises(RuntimeError, match="DataLoader worker exited unexpectedly"):  # session.ts knows these words
        next(told)


def test_an_error_of_the_dataset_in_a_worker_is_its_own():
    def parts():
        raise FileNotFoundError("Caught FileNotFoundError in DataLoader worker process 0.")
        yield

    with pytest.raises(FileNotFoundError):
        next(loader._tell_deaths(parts()))
