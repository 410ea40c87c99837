"""What the benchmark of the data plane reads of py-spy and perf, and its page of profiles."""

from collections import Counter

from benchmarks.data_plane import counters, profiles, works

STACKS = """\
main (nebula/cli/main.py);run (asyncio/runners.py);data_received (http/connection.py) 12
main (nebula/cli/main.py);Runner.run (asyncio/runners.py) 3
main (nebula/cli/main.py);wait (a.py);data_received (http/connection.py) 5
Thread._bootstrap (threading.py);wait (threading.py) 20
"""

REPORT = """\
# Samples: 1K of event 'cpu-clock'
#      Samples  Symbol
# ............  ......................................
#
           812  [.] runtime.mallocgc
            93  [k] finish_task_switch.isra.0
             7  [.] server.(*client).parse
"""


def test_the_samples_of_a_stack_count_for_the_function_that_was_running() -> None:
    assert profiles.stacks(STACKS) == {"data_received (connection)": 17, "the event loop itself": 3}


def test_an_event_loop_took_what_the_functions_left_of_the_cpu_time() -> None:
    seen = Counter({"f": 20, "g": 5, "the event loop itself": 400})
    assert profiles.shares(seen, cpu=100) == [
        ("the event loop itself", 0.75),
        ("f", 0.2),
        ("g", 0.05),
    ]
    assert profiles.shares(seen, cpu=10) == [("f", 0.8), ("g", 0.2)]


def test_symbols_of_perf_say_which_are_of_the_kernel() -> None:
    assert profiles.symbols(REPORT) == {
        "runtime.mallocgc": 812,
        "finish_task_switch.isra.0 (kernel)": 93,
        "server.(*client).parse": 7,
    }


def test_a_page_has_each_functions_part_of_a_request() -> None:
    (work,) = works.chosen(["chat"], [8])
    told = profiles.page([profiles.Profile(work, "nebula", "gateway", 80.0, [("f (m)", 0.25)])], "")
    assert "## `chat`, 8 connections, nebula: gateway" in told
    assert "| 20.0 | 25.0% | `f (m)` |" in told


def test_what_perf_can_not_count_is_left_out() -> None:
    told = """\
<not supported>,,instructions,0,100.00,,
12345,,cycles:u,2000,100.00,,
17,,context-switches,100,100.00,,
99,,branches,100,100.00,,
"""
    assert counters.counted(told) == {"cycles": 12345, "context-switches": 17}
