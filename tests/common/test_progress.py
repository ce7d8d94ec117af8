"""Progress that tells the truth: before each item and at the end."""

from prap_pim.common.progress import counted, unheard


def test_every_item_is_told_of_before_it_is_taken_up_and_the_end_after():
    order = []
    for item in counted("ab", lambda done, total: order.append((done, total))):
        order.append(item)
    assert order == [(0, 2), "a", (1, 2), "b", (2, 2)]
    assert list(counted([1], unheard)) == [1]
