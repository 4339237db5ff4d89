from pipeline.cursors import Cursor, permutation


def test_nothing_repeats_within_an_epoch_and_every_epoch_has_its_own_order():
    cursor = Cursor(10, seed=0, name="prompts")
    first, second = cursor.take(0, 10), cursor.take(10, 10)
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second


def test_what_comes_next_does_not_depend_on_how_it_was_asked_for():
    whole = Cursor(7, seed=1, name="ptx").take(0, 30)
    cut = Cursor(7, seed=1, name="ptx")
    assert cut.take(13, 17) == whole[13:]
    assert cut.take(0, 13) == whole[:13]


def test_seed_and_name_change_the_order():
    order = Cursor(20, seed=0, name="prompts").take(0, 20)
    assert order != Cursor(20, seed=1, name="prompts").take(0, 20)
    assert order != Cursor(20, seed=0, name="ptx").take(0, 20)
    assert permutation(20, 1, 2).tolist() == permutation(20, 1, 2).tolist()
