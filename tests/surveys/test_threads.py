"""How many threads torch uses, while several threads ask for one."""

import threading

import torch

from lfmlib.surveys.threads import one_thread


def test_each_thread_has_its_own_number_back_in_whatever_order_they_leave():
    before, inside, left = torch.get_num_threads(), threading.Event(), threading.Event()
    torch.set_num_threads(2)

    def other():
        with one_thread():
            inside.set()
            left.wait(30)

    try:
        thread = threading.Thread(target=other)
        with one_thread():
            thread.start()
            assert inside.wait(30) and torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2  # though the other is still inside
        left.set()
        thread.join()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
