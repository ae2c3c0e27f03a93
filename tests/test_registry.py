"""Names to objects."""

import pytest

from harness import registry
from harness.errors import InputError, UnknownName


@pytest.mark.parametrize("kind", list(registry.BUILT_IN))
def test_every_built_in_name_is_there_and_says_what_it_is(kind):
    names = registry.names(kind)
    assert names.keys() >= registry.BUILT_IN[kind].keys()
    assert all(names.values())


def test_an_unknown_name_names_the_nearest():
    with pytest.raises(UnknownName, match="no task 'humanevel': did you mean 'humaneval'"):
        registry.find("task", "humanevel")


def test_an_unknown_argument_names_the_nearest():
    with pytest.raises(UnknownName, match="did you mean 'path'"):
        registry.build("task", "humaneval", {"pth": "x"})


def test_text_is_converted_by_the_signature(tmp_path):
    (tmp_path / "mine.py").write_text(
        "def mine(n: int, greedy: bool = False, name: str = 'x'):\n    return n, greedy, name\n"
    )
    name = f"{tmp_path}/mine.py:mine"
    assert registry.build("task", name, {"n": "3", "greedy": "true", "name": "7"}) == (3, True, "7")
    with pytest.raises(InputError, match="n='three' is not usable"):
        registry.build("task", name, {"n": "three"})
    with pytest.raises(InputError, match="needs n: give it with --task_args n=VALUE"):
        registry.build("task", name, {})


def test_files_that_cannot_be_used(tmp_path):
    (tmp_path / "mine.py").write_text("def other():\n    pass\n")
    with pytest.raises(InputError, match="no file"):
        registry.find("task", "nowhere.py:mine")
    with pytest.raises(InputError, match="no function in it"):
        registry.find("task", f"{tmp_path}/mine.py")
    with pytest.raises(UnknownName, match="function in"):
        registry.find("task", f"{tmp_path}/mine.py:mine")
