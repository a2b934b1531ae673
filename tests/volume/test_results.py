"""A folder of small results: begun anew it is empty, what is foreign stays, killed it is known whose it is."""

import pytest

from volpipe.errors import ProductError
from volpipe.volume import results
from volpipe.volume.folder import open_folder
from volpipe.volume.product import own_attributes
from volpipe.volume.results import are_complete, begin_results, finish_results


@pytest.fixture
def place(tmp_path):
    place = str(tmp_path / "out")
    begin_results(place)
    open_folder(place).put("pairs/0.json", b"{}")
    return place


def test_a_folder_is_complete_once_it_is_finished(place):
    assert not are_complete(place)
    finish_results(place, {"of": 3})
    assert are_complete(place)
    assert own_attributes(place)["of"] == 3


def test_a_folder_that_is_begun_anew_is_empty_and_running(place):
    finish_results(place, {})
    with pytest.raises(ProductError, match="exists already"):
        begin_results(place)
    begin_results(place, replace=True)
    assert open_folder(place).keys() == ["zarr.json"]
    assert not are_complete(place)


def test_what_volpipe_did_not_make_is_never_replaced(tmp_path):
    (tmp_path / "thesis.txt").write_text("years")
    with pytest.raises(ProductError, match="exists already"):
        begin_results(str(tmp_path), replace=True)
    assert (tmp_path / "thesis.txt").read_text() == "years"


def test_killed_while_it_is_emptied_it_is_still_known_whose_it_is(place, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(results, "make_bare_group", killed)
    with pytest.raises(KeyboardInterrupt):
        begin_results(place, replace=True)
    assert open_folder(place).keys() == ["zarr.json"]
    assert own_attributes(place) is not None
