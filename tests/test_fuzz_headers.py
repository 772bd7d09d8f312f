"""Headers changed at random are read right or refused with a reason, and never end the process."""

import pytest

from tiny import REPO, python

COUNT = 120  # of changed headers for each seed


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_a_header_changed_at_random_is_read_right_or_refused_with_a_reason(tmp_path, seed):
    ended = python(REPO / "tests" / "work_of_headers.py", tmp_path, seed, COUNT, cwd=REPO / "tests")
    assert ended.returncode == 0, ended.stderr.splitlines()[-1]  # the last file that was begun
    assert ended.stdout == ""
