"""From an applied pool to the cheapest accelerators, told the same way everywhere."""
import time
import pytest
from operator_builders import *
pytestmark = [pytest.mark.cluster]
def test_try(place, operator_in_process, engines):
    t=time.time()
    op = operator_in_process()
    print("start", time.time()-t); t=time.time()
    place.create(a_pool(), a_class(rate=40))
    op.settle()
    print("settle", time.time()-t, op.passes); t=time.time()
    print(place.status(), place.replicas())
    t=time.time()
    for _ in range(10): op.advance()
    print("10 passes", time.time()-t); t=time.time()
    print(engines.count())
    op.stop()
    print("stop", time.time()-t)
